"""Made-up pictures in a temporary folder, and a cache of each test's own."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

MakeFolder = Callable[..., Path]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder that takes the place of the user's cache."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("DISTAUG_CACHE", str(folder))
    return folder


@pytest.fixture
def said() -> list[str]:
    """Return a list; its `append` serves as a log."""
    return []


@pytest.fixture
def noise() -> Callable[..., np.ndarray]:
    """Return `noise(height, width, seed)`: a picture that differs from every other one."""

    def make(height: int, width: int, seed: int) -> np.ndarray:
        return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)

    return make


@pytest.fixture
def make_folder(tmp_path: Path, noise: Callable[..., np.ndarray]) -> MakeFolder:
    """Return `make(counts, sizes=..., name=...)`, which fills class folders with PNG pictures of noise.

    `counts` maps a folder below the root ("cat", "train/cat") to its number of pictures; `sizes` is a list of
    (height, width) that the pictures take in turn.
    """

    def make(counts: dict[str, int], sizes: list[tuple[int, int]] | None = None, name: str = "pictures") -> Path:
        seed = 0
        for folder, count in counts.items():
            (tmp_path / name / folder).mkdir(parents=True)
            for i in range(count):
                height, width = (sizes or [(8, 8)])[i % len(sizes or [1])]
                picture = Image.fromarray(noise(height, width, seed))
                picture.save(tmp_path / name / folder / f"{i:03}.png")
                seed += 1
        return tmp_path / name

    return make
