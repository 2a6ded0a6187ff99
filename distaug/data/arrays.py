"""Sources that hold plain pixels: the embedded digits, torchvision's small sets, and made-up pictures."""

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from distaug import draws
from distaug.data.decode import Pixels, Reference
from distaug.data.node import cache_root, content_digest, locked
from distaug.data.source import PARTS, TEST, TRAIN, Log, Source
from distaug.errors import DataError
from distaug.spec.data import SyntheticSpec

__all__ = ["DigitsSource", "SyntheticSource", "TorchvisionSource"]

_Triple = tuple[float, float, float]


class DigitsSource(Source):
    """The 1,797 handwritten digits (8x8) that come with scikit-learn, as 32x32 pictures."""

    classes = tuple(str(digit) for digit in range(10))
    side = 32

    def content(self, log: Log) -> str:
        """Name the data; it comes with an installed package and does not change."""
        return f"digits-bicubic-{self.side}"

    @cached_property
    def _data(self) -> Any:
        from sklearn.datasets import load_digits

        return load_digits()

    @cached_property
    def labels(self) -> npt.NDArray[np.int64]:
        """(1797,) the digit."""
        return np.asarray(self._data.target, np.int64)

    @cached_property
    def parts(self) -> npt.NDArray[np.int8]:
        """(1797,) all TRAIN: nobody has fixed a test set."""
        return np.full(len(self.labels), TRAIN, np.int8)

    def name(self, item: int) -> str:
        """Return the digit's number in the package's order."""
        return f"digit {item}"

    def reference(self, item: int) -> Pixels:
        """Return one picture, its 17 levels of grey spread over 0..255 before it is enlarged."""
        small = Image.fromarray(np.asarray(self._data.images[item] * (255 / 16), np.float32))
        large = np.asarray(small.resize((self.side, self.side), Image.Resampling.BICUBIC))
        grey: Pixels = np.rint(large).clip(0, 255).astype(np.uint8)
        return grey


class TorchvisionSource(Source):
    """CIFAR-10, CIFAR-100, MNIST or Fashion-MNIST in the files that torchvision reads."""

    # Mean and deviation over the training set, as commonly published; MNIST's are of one channel.
    _KINDS: dict[str, tuple[str, _Triple, _Triple]] = {
        "cifar10": ("CIFAR10", (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
        "cifar100": ("CIFAR100", (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
        "mnist": ("MNIST", (0.1307,) * 3, (0.3081,) * 3),
        "fashion_mnist": ("FashionMNIST", (0.2860,) * 3, (0.3530,) * 3),
    }

    def __init__(self, kind: str, path: str | None, download: bool, log: Log) -> None:
        """Find the files, and fetch them when that is asked for.

        Args:
            kind: Name of the source in the job file.
            path: Folder above torchvision's (`cifar-10-batches-py`, `MNIST/raw`); None: in the cache folder.
            download: Fetch what is missing.
            log: Told about a download.

        Raises:
            DataError: The files are not there, are damaged, or cannot be fetched.
        """
        from torchvision import datasets  # slow to import, and most jobs do without

        name, mean, std = self._KINDS[kind]
        self.kind = kind
        self.published = (mean, std)
        self._reader: Any = getattr(datasets, name)
        self._root = Path(path).expanduser().absolute() if path else cache_root() / "datasets"
        if self._missing() and download:
            self._download(log)
        if missing := self._missing():
            raise DataError(
                f"{kind} is not in {self._root} ({len(missing)} files missing, the first is {missing[0]}); "
                "set data.download: true to fetch it, or data.path to the folder above "
                f"{missing[0].relative_to(self._root).parts[0]}"
            )

    def _files(self) -> list[Path]:
        if hasattr(self._reader, "base_folder"):
            listed = [*self._reader.train_list, *self._reader.test_list, (self._reader.meta["filename"], "")]
            return [self._root / self._reader.base_folder / name for name, _ in listed]
        folder = self._root / self._reader.__name__ / "raw"
        return [folder / Path(name).stem for name, _ in self._reader.resources]

    def _missing(self) -> list[Path]:
        return [file for file in self._files() if not file.is_file()]

    def _download(self, log: Log) -> None:
        with locked(self._root / f".{self.kind}.lock", log, f"downloading {self.kind}"):
            if not self._missing():
                return  # another process was faster
            log(f"downloading {self.kind} to {self._root}")
            try:
                self._reader(self._root, download=True)
            except (URLError, OSError, RuntimeError) as error:
                raise DataError(
                    f"{self.kind} could not be downloaded: {error}; on a machine without network, copy the "
                    f"files to {self._files()[0].parent}, or use `source: parquet`"
                ) from error

    def content(self, log: Log) -> str:
        """Digest torchvision's files."""
        return content_digest([(file.name, file) for file in self._files()], log)

    @cached_property
    def _sets(self) -> tuple[Any, Any]:
        try:
            return self._reader(self._root, train=True), self._reader(self._root, train=False)
        except Exception as error:  # its readers assert, unpickle and reshape what they find
            raise DataError(
                f"{self.kind} in {self._root} is damaged ({type(error).__name__}: {error}); "
                "remove it and set data.download: true"
            ) from error

    @property
    def classes(self) -> tuple[str, ...]:
        """The names that torchvision gives."""
        return tuple(self._sets[0].classes)

    @cached_property
    def labels(self) -> npt.NDArray[np.int64]:
        """(N,) labels, training set first."""
        return np.concatenate([np.asarray(one.targets, np.int64) for one in self._sets])

    @cached_property
    def parts(self) -> npt.NDArray[np.int8]:
        """(N,) TRAIN or TEST."""
        return np.repeat(np.array([TRAIN, TEST], np.int8), [len(one.targets) for one in self._sets])

    @cached_property
    def _pixels(self) -> Pixels:
        return np.concatenate([np.asarray(one.data, np.uint8) for one in self._sets])

    def name(self, item: int) -> str:
        """Return the set and the picture's number in it."""
        part = int(self.parts[item])
        return f"{self.kind} {PARTS[part]} {item - int(np.searchsorted(self.parts, part))}"

    def reference(self, item: int) -> Pixels:
        """Return the pixels, (H, W, 3) or grey (H, W)."""
        picture: Pixels = self._pixels[item]
        return picture


class SyntheticSource(Source):
    """Made-up pictures: a pattern of coloured blocks for each class, mixed half and half with noise.

    Whole numbers only, so that every machine makes the same ones.
    """

    real = False
    _BLOCKS = 4
    _CHUNK = 256

    def __init__(self, spec: SyntheticSpec, side: int) -> None:
        """Fix the number of pictures and classes, and their height and width."""
        self._spec, self._side = spec, side
        total = spec.samples + spec.samples // 5
        self._labels = np.arange(total, dtype=np.int64) % spec.classes
        self._parts = np.repeat(np.array([TRAIN, TEST], np.int8), [spec.samples, total - spec.samples])
        cells = torch.arange(spec.classes * self._BLOCKS**2 * 3)
        blocks = (draws.bits(0, 0, cells, "synthetic pattern") & 0xFF).to(torch.uint8).numpy()
        place = np.arange(side) * self._BLOCKS // side
        pattern = blocks.reshape(spec.classes, self._BLOCKS, self._BLOCKS, 3)
        self._pattern: Pixels = pattern[:, place[:, None], place[None, :]]

    def content(self, log: Log) -> str:
        """Name the numbers that everything follows from."""
        return f"synthetic-{self._spec.samples}-{self._spec.classes}-{self._side}"

    @property
    def classes(self) -> tuple[str, ...]:
        """`made-up 0` and so on."""
        return tuple(f"made-up {label}" for label in range(self._spec.classes))

    @property
    def labels(self) -> npt.NDArray[np.int64]:
        """(N,) labels, dealt out in turn."""
        return self._labels

    @property
    def parts(self) -> npt.NDArray[np.int8]:
        """(N,) TRAIN or TEST."""
        return self._parts

    def _make(self, start: int, stop: int) -> Pixels:
        count = self._side * self._side * 3
        words = -(-count // 8)
        ids = torch.arange(start * words, stop * words)
        noise = draws.bits(0, 0, ids, "synthetic noise").numpy().astype("<i8").view(np.uint8)
        noise = noise.reshape(stop - start, words * 8)[:, :count].reshape(-1, self._side, self._side, 3)
        return noise // 2 + self._pattern[self._labels[start:stop]] // 2

    def name(self, item: int) -> str:
        """Return the picture's number."""
        return f"made-up picture {item}"

    def reference(self, item: int) -> Pixels:
        """Make one picture."""
        picture: Pixels = self._make(item, item + 1)[0]
        return picture

    def references(self) -> Iterator[Reference]:
        """Make all pictures, some at a time."""
        for start in range(0, len(self._labels), self._CHUNK):
            yield from self._make(start, min(start + self._CHUNK, len(self._labels)))
