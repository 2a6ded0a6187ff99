"""The base of every section of the job file."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

Auto = Literal["auto"]
"""A value that is decided once, at the first start, and then kept for the life of the run."""


class Section(BaseModel):
    """A section of the job file: frozen, strict about types, closed to unknown keys."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        validate_default=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )
