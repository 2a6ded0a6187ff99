"""The pictures of a job's augmentation are drawn, and show something."""

from pathlib import Path

import numpy as np
from PIL import Image

from distaug.report.preview import preview
from distaug.spec.load import parse_job

JOB = """
data: {source: digits, per_class: 8}
model: {name: smallnet}
augment: {preset: strong, class_strength: auto}
mix: {mixup: {}, cutmix: {}}
"""


def test_every_grid_is_drawn(tmp_path: Path) -> None:
    files = preview(parse_job(JOB), tmp_path / "pictures", log=print)
    assert [file.stem for file in files] == ["batch", "operations", "policies", "mixup", "cutmix", "labels"]
    for file in files:
        pixels = np.asarray(Image.open(file).convert("L"))
        assert min(pixels.shape) > 150 and pixels.std() > 20, file
