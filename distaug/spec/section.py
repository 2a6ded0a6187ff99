"""The base of every section of the job file."""

from typing import Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, model_serializer, model_validator

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


class Entry(Section):
    """An entry of a list in the job file: a mapping with one of the fields' names as its only key."""

    kind: ClassVar[str]
    """What an entry names, for messages."""

    @model_validator(mode="after")
    def _one_key(self) -> Self:
        if len(self.model_fields_set) != 1:
            found = ", ".join(sorted(self.model_fields_set)) or "none"
            raise ValueError(f"each entry of the list names exactly one {self.kind}, found {found}")
        if getattr(self, self.name) is None:
            raise ValueError(f"`{self.name}` has no settings; write `{self.name}: {{}}` for the defaults")
        return self

    @property
    def name(self) -> str:
        """The only key."""
        (name,) = self.model_fields_set
        return name

    @property
    def settings(self) -> Any:
        """The section below it."""
        return getattr(self, self.name)

    @model_serializer(mode="wrap")
    def _only_that_one(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: settings for name, settings in serialize(self).items() if settings is not None}
