"""Section `metrics`: where a run's metrics can be read while it runs; changes no result."""

from typing import Annotated

from pydantic import Field

from distaug.spec.section import Auto, Section


class MetricsSpec(Section):
    """Where a run's metrics can be read while it runs."""

    port: Annotated[int, Field(ge=1, le=65535)] | Auto | None = "auto"
    """Port of `/metrics` for Prometheus; `auto`: 9108 or the next free one; null: none."""
    host: str = Field(default="127.0.0.1", min_length=1)
    """Address that it listens on; the default can be reached from this machine alone, 0.0.0.0 from anywhere."""
    tensorboard: bool = False
    """Whether the epochs are written for TensorBoard as well, to the run's `tensorboard`."""
