"""Batches for one rank: whole sets held on the device, or batches sent to it ahead of their use.

Both ways give the same bytes. A batch is known by (epoch, step, shard) alone, so a loader can begin anywhere
without reading what came before.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor

from distaug import draws
from distaug.data.balance import quotas, sample_ids
from distaug.data.decode import CROP_DRAWS
from distaug.data.open import DataSet, Split
from distaug.data.prefetch import Ahead
from distaug.data.shard import eval_batches, positions, shard_size, steps_per_epoch
from distaug.data.views import Request, Views
from distaug.errors import DataError
from distaug.spec.data import DataSpec

__all__ = ["Batch", "Batches", "Loader", "Way", "choose_way"]

Way = Literal["device", "stream"]
T = TypeVar("T")
_AHEAD = 3  # batches: enough to hide a slow one, few enough to be cheap in memory
_REQUEST = 32  # pictures decoded by one process at a time, so that all of them work on the next batch
_MOVED_AT_ONCE = 8192


@dataclass(frozen=True, eq=False)
class Batch:
    """Pictures with labels on the loader's device, and their sample ids, which stay on the host."""

    images: Tensor
    """(b, 3, S, S) uint8."""
    labels: Tensor
    """(b,) int64."""
    ids: Tensor
    """(b,) int64 samples: the k-th use of picture i of the split's n is i + n·k."""
    shard: int
    """Which part of the step's global batch it is; 0 in evaluation."""


@dataclass(frozen=True, eq=False)
class _Read:
    """Pictures asked for, and which view of them."""

    split: Split
    ids: Tensor
    """(b,) int64."""
    epoch: int | None
    """Epoch of the random crops; None: the evaluation view."""

    @property
    def pictures(self) -> Tensor:
        """(b,) int64 indices into the split."""
        return self.ids % len(self.split)


_Triple = tuple[Tensor, Tensor, Tensor]
"""Images, labels, ids."""


def choose_way(data: DataSet, spec: DataSpec, device: torch.device) -> Way:
    """Return how batches reach the device: `device` when the whole set fits in its share of the memory.

    Raises:
        DataError: `batches: device` is asked for, but the pictures are not held decoded.
    """
    if not data.cached:
        if spec.batches == "device":
            raise DataError(
                "data.batches is `device`, but the pictures have different sizes (or pass "
                "data.cache_limit_gib) and are decoded in each epoch; set it to `stream` or `auto`"
            )
        return "stream"
    if spec.batches != "auto":
        return spec.batches
    if device.type != "cuda":
        return "device"
    pictures = sum(len(split) for split in (data.train, data.val, data.test) if split is not None)
    free, _ = torch.cuda.mem_get_info(device)
    needed = pictures * 3 * data.image_size**2
    return "device" if needed <= spec.device_memory_share * free else "stream"


class Batches(Generic[T]):
    """An iterator over batches that knows how long it was waited for."""

    def __init__(self, source: Iterator[_Triple], finish: Callable[[_Triple], T]) -> None:
        """Hand on what `finish` makes of each read."""
        self._source = source
        self._finish = finish
        self.wait_seconds = 0.0
        """Seconds spent waiting for data so far."""

    def __iter__(self) -> "Batches[T]":
        """Return itself."""
        return self

    def __next__(self) -> T:
        """Wait for the next batch."""
        start = time.perf_counter()
        try:
            read = next(self._source)
        finally:
            self.wait_seconds += time.perf_counter() - start
        return self._finish(read)

    def close(self) -> None:
        """Stop reading ahead."""
        if close := getattr(self._source, "close", None):
            close()


class Loader:
    """The batches of one rank, for training and for evaluation."""

    def __init__(
        self,
        data: DataSet,
        *,
        device: torch.device,
        seed: int,
        global_batch: int,
        shards: int,
        own: range,
        spec: DataSpec,
        way: Way,
        eval_batch: int,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        """Prepare to read; nothing is read or moved yet.

        Args:
            data: The opened data set.
            device: Where batches are wanted.
            seed: Seed of the job: it decides the order and the crops.
            global_batch: Pictures in a step over all ranks.
            shards: Equal parts of a step.
            own: The contiguous shards that this rank computes.
            spec: The section `data`.
            way: From `choose_way`, agreed on by all ranks.
            eval_batch: Pictures in a batch of evaluation.
            rank: This rank, for evaluation.
            world: Number of ranks, for evaluation.

        Raises:
            DataError: The training set is smaller than one global batch.
            JobError: The batch cannot be divided among the shards.
        """
        if device.type == "cuda" and device.index is None:
            device = torch.device("cuda", torch.cuda.current_device())
        self._quotas = quotas(data.train.labels, spec)
        self.steps_per_epoch = steps_per_epoch(int(self._quotas.sum()), global_batch)
        self._shard_size = shard_size(global_batch, shards)
        self._data, self._device, self._seed, self._way = data, device, seed, way
        self._global_batch, self._shards, self._own = global_batch, shards, own
        self._eval_batch, self._rank, self._world = eval_batch, rank, world
        self._views = Views(spec.loader_workers)
        self._max_pixels = spec.max_pixels
        self._held: dict[Split, tuple[Tensor, Tensor]] = {}
        self._side: torch.cuda.Stream | None = None
        if device.type == "cuda" and way == "stream":
            self._side = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def train(self, epoch: int, start_step: int = 0) -> "Batches[list[Batch]]":
        """Iterate over an epoch's steps from `start_step` on: one list a step, one batch per own shard."""
        order = sample_ids(self._data.train.labels, self._quotas, self._seed, epoch)

        def reads() -> Iterator[_Read]:
            for step in range(start_step, self.steps_per_epoch):
                first = positions(step, self._own.start, self._global_batch, self._shards).start
                ids = order[first : first + len(self._own) * self._shard_size]
                yield _Read(self._data.train, ids, epoch)

        return Batches(self._triples(reads), self._cut)

    def evaluate(self, split_name: str, pictures: Tensor | None = None) -> "Batches[tuple[int, Batch]]":
        """Iterate over this rank's batches of a set, each with its number among the batches of all ranks.

        Args:
            split_name: `train`, `val` or `test`.
            pictures: (n,) int64 indices of those to read; None: all.

        Raises:
            DataError: There is no such set.
        """
        split: Split | None = getattr(self._data, split_name)
        if split is None:
            raise DataError(f"the data has no {split_name} set; see data.{split_name}_fraction")
        ids = torch.arange(len(split)) if pictures is None else pictures
        batches = eval_batches(len(ids), self._eval_batch, self._rank, self._world)
        numbers = iter([number for number, _, _ in batches])

        def reads() -> Iterator[_Read]:
            for _, start, stop in batches:
                yield _Read(split, ids[start:stop], None)

        def numbered(read: _Triple) -> tuple[int, Batch]:
            return next(numbers), Batch(*read, shard=0)

        return Batches(self._triples(reads), numbered)

    def close(self) -> None:
        """End the loader processes and give the device's memory back."""
        self._views.close()
        self._held.clear()

    def _cut(self, read: _Triple) -> list[Batch]:
        """Cut what was read for one step into its shards, without copying."""
        images, labels, ids = (torch.split(tensor, self._shard_size) for tensor in read)
        return [Batch(*piece) for piece in zip(images, labels, ids, self._own, strict=True)]

    def _triples(self, reads: Callable[[], Iterator[_Read]]) -> Iterator[_Triple]:
        if self._way == "device":
            return map(self._gathered, reads())
        side = self._side
        if side is None:
            return Ahead(lambda: self._host(reads), _AHEAD)
        return self._arriving(Ahead(lambda: self._sent(reads, side), _AHEAD))

    def _gathered(self, read: _Read) -> _Triple:
        """Read from the set on the device; on the CPU, from the mapped cache as it is."""
        if self._device.type == "cpu":
            return self._taken(read)
        pixels, labels = self._on_device(read.split)
        pictures = read.pictures.to(self._device, non_blocking=True)
        return pixels.index_select(0, pictures), labels.index_select(0, pictures), read.ids

    def _on_device(self, split: Split) -> tuple[Tensor, Tensor]:
        if split not in self._held:
            n, side = len(split), self._data.image_size
            pixels = torch.empty((n, 3, side, side), dtype=torch.uint8, device=self._device)
            for start in range(0, n, _MOVED_AT_ONCE):
                some = torch.arange(start, min(start + _MOVED_AT_ONCE, n))
                pixels[start : start + len(some)] = split.pictures(some).to(self._device)
            self._held[split] = pixels, split.labels.to(self._device)
        return self._held[split]

    def _taken(self, read: _Read) -> _Triple:
        """Read from the mapped cache."""
        assert read.split.pixels is not None
        images, pictures = self._empty(len(read.ids)), read.pictures
        # numpy's take copies whole pictures, lets other threads run, and leaves torch's own to the training.
        np.take(read.split.pixels.numpy(), read.split.rows[pictures].numpy(), 0, images.numpy(), mode="clip")
        return images, self._pinned(read.split.labels[pictures]), read.ids

    def _empty(self, count: int) -> Tensor:
        side = self._data.image_size
        return torch.empty((count, 3, side, side), dtype=torch.uint8, pin_memory=self._side is not None)

    def _pinned(self, tensor: Tensor) -> Tensor:
        return tensor if self._side is None else tensor.pin_memory()

    def _host(self, reads: Callable[[], Iterator[_Read]]) -> Iterator[_Triple]:
        """Read into the host's memory, ahead of its use."""
        if self._data.cached:
            yield from map(self._taken, reads())
            return
        requests = (request for read in reads() for request in self._requests(read))
        with closing(self._views.decoded(requests)) as pieces:
            for read in reads():
                images = self._empty(len(read.ids))
                for place in torch.split(images, _REQUEST):
                    place.copy_(torch.from_numpy(next(pieces)))
                yield images, self._pinned(read.split.labels[read.pictures]), read.ids

    def _requests(self, read: _Read) -> Iterator[Request]:
        for ids in torch.split(read.ids, _REQUEST):
            crops = None
            if read.epoch is not None:
                drawn = [draws.uniform(self._seed, read.epoch, ids, "resized_crop", k) for k in range(CROP_DRAWS)]
                crops = torch.stack(drawn, 1).tolist()
            pictures = (ids % len(read.split)).tolist()
            yield Request(
                references=[read.split.reference(i) for i in pictures],
                names=[read.split.name(i) for i in pictures],
                crops=crops,
                size=self._data.image_size,
                max_pixels=self._max_pixels,
            )

    def _sent(
        self, reads: Callable[[], Iterator[_Read]], side: torch.cuda.Stream
    ) -> Iterator[tuple[_Triple, torch.cuda.Event]]:
        """Send pinned batches to the device on a stream of their own."""
        torch.cuda.set_device(self._device)  # of this thread
        for images, labels, ids in self._host(reads):
            with torch.cuda.stream(side):
                moved = tuple(tensor.to(self._device, non_blocking=True) for tensor in (images, labels))
                event = torch.cuda.Event()  # type: ignore[no-untyped-call]
                event.record(side)
            yield (moved[0], moved[1], ids), event

    def _arriving(self, sent: "Ahead[tuple[_Triple, torch.cuda.Event]]") -> Iterator[_Triple]:
        """Make the training's stream wait for each copy; the host does not."""
        try:
            for read, event in sent:
                stream = torch.cuda.current_stream(self._device)
                stream.wait_event(event)
                for tensor in read[:2]:
                    tensor.record_stream(stream)  # its memory belongs to the side stream
                yield read
        finally:
            sent.close()
