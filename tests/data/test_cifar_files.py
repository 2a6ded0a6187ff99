"""The real CIFAR-10 as Parquet, where it is there."""

import os
from pathlib import Path

import pytest
import torch

from distaug.data.open import open_data
from distaug.spec.data import DataSpec

FILES = Path(os.environ.get("DISTAUG_CIFAR10", Path(__file__).parents[3] / "shared" / "data" / "cifar10"))
pytestmark = [
    pytest.mark.cifar,
    pytest.mark.skipif(not FILES.is_dir(), reason="set DISTAUG_CIFAR10 to the folder of the Parquet files"),
]


def test_cifar10_is_whole_and_has_its_published_statistics() -> None:
    spec = DataSpec(source="parquet", path=str(FILES))
    whole = open_data(spec, final_fit=True)
    assert whole.test is not None
    assert (len(whole.train), whole.val, len(whole.test)) == (50_000, None, 10_000)
    assert set(whole.report["per_class"]["train"].values()) == {5_000}
    assert set(whole.report["per_class"]["test"].values()) == {1_000}
    assert whole.classes[:3] == ("airplane", "automobile", "bird") and whole.image_size == 32
    assert whole.mean == pytest.approx((0.4914, 0.4822, 0.4465), abs=1e-3)
    assert whole.std == pytest.approx((0.2470, 0.2435, 0.2616), abs=1e-3)

    divided = open_data(spec)
    assert divided.val is not None
    assert (len(divided.train), len(divided.val)) == (45_000, 5_000)
    assert torch.bincount(divided.val.labels).tolist() == [500] * 10
    assert divided.report["damaged"]["count"] == 0
