"""Section `data`: where the pictures come from, how they are split and how they are read."""

from typing import Annotated, Literal

from pydantic import Field, Strict

from distaug.spec.section import Auto, Section

Source = Literal[
    "digits",
    "cifar10",
    "cifar100",
    "mnist",
    "fashion_mnist",
    "folder",
    "parquet",
    "synthetic",
]
PerChannel = Annotated[tuple[float, float, float], Strict(False)]


class SyntheticSpec(Section):
    """Made-up pictures, for benchmarks: the result says that they are not real."""

    samples: int = Field(default=10_000, ge=10)
    """Number of training pictures; a fifth as many more are made for the test set."""
    classes: int = Field(default=10, ge=2)
    """Number of classes, dealt out evenly."""


class DataSpec(Section):
    """Where the pictures come from, how they are split and how they are read."""

    source: Source
    """Kind of data set: embedded (`digits`), a torchvision one, `folder`, `parquet` or `synthetic`."""
    path: Annotated[str, Field(min_length=1)] | None = None
    """Folder or file of the data set, or its URL (`s3://bucket/folder`, `gs://…`): each node fetches a copy."""
    download: bool = False
    """Fetch a torchvision data set when it is not at `path`."""
    image_size: Annotated[int, Field(ge=4, le=2048)] | Auto = "auto"
    """Height and width in pixels; `auto`: that of the pictures if they are square and alike, else 224."""
    val_fraction: float = Field(default=0.1, gt=0, lt=1)
    """Share of the training set held out for validation, by class, where no validation set comes with it."""
    test_fraction: float = Field(default=0.0, ge=0, lt=1)
    """Share of all pictures held out for testing, by class, where no test set comes with them; 0: none."""
    split_seed: int = Field(default=0, ge=0)
    """Seed of the held-out parts, so that runs with another `seed` are judged on the same pictures."""
    per_class: int | None = Field(default=None, ge=1)
    """Keep at most this many training pictures of each class."""
    long_tail_ratio: float | None = Field(default=None, ge=1)
    """Thin out the training set until the first class has this many times the pictures of the last."""
    balance: Literal["none", "repeat_factor", "class_balanced"] = "none"
    """How often an epoch uses the pictures: each once, those of rare classes more often, or all classes alike."""
    repeat_threshold: Annotated[float, Field(gt=0, le=1)] | Auto = "auto"
    """Classes with a smaller share of the training set are repeated (arXiv:1908.03195); `auto`: an equal share."""
    max_damaged: int = Field(default=10, ge=0)
    """Damaged pictures are skipped and named in the log; more than this many end the run."""
    max_pixels: int = Field(default=64_000_000, ge=1)
    """A picture with more pixels than this counts as damaged."""
    drop_duplicates: bool = False
    """Leave out training pictures that stand again in train, validation or test, pixel for pixel."""
    mean: PerChannel | Auto = "auto"
    """Mean per channel, for pixels in 0 to 1; `auto`: that of the weights, else of the training set."""
    std: PerChannel | Auto = "auto"
    """Standard deviation per channel, for pixels in 0 to 1; `auto`: as for `mean`."""
    batches: Literal["auto", "device", "stream"] = "auto"
    """Hold the whole set on the device (`device`), or send batches as they are needed (`stream`)."""
    device_memory_share: float = Field(default=0.25, gt=0, le=1)
    """With `batches: auto`, the share of the free device memory that the set may take."""
    loader_workers: Annotated[int, Field(ge=0, le=128)] | Auto = "auto"
    """Processes per rank that decode pictures of different sizes; `auto`: its cores, at most 8."""
    cache_limit_gib: float = Field(default=32.0, ge=0)
    """Decoded pictures are kept on disk up to this size; larger sets are decoded anew each epoch."""
    synthetic: SyntheticSpec = SyntheticSpec()
    """Size of the `synthetic` source."""
