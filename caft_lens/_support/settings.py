"""Values that travel: settings that are given by keyword, checked where they are made, and never changed in place."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, PlainValidator, ValidationError, ValidationInfo

from caft_lens._support.errors import BadType, CaftLensError, nearest


def checked(check: Callable[..., Any], *, none: bool = False, **limits: Any) -> PlainValidator:
    """Of a field of settings: the check that it goes through, one of `caft_lens._support.arguments` or alike.

    The check takes the value, the name of the field and `limits`, and gives what to keep, also `None` where `none`.
    """

    def validated(value: Any, of: ValidationInfo) -> Any:
        return None if none and value is None else check(value, of.field_name, **limits)

    return PlainValidator(validated)


class Settings(BaseModel):
    """The base of settings: a subclass has fields with defaults, each with the check that it goes through.

    Raises:
        BadType: For a setting that there is not, with the nearest.
        CaftLensError: Whatever the check of a field raises.

    Example:
        >>> cl.LoraSettings(r=8), cl.LoraSettings(r=8).but(alpha=16)
        (LoraSettings(r=8), LoraSettings(r=8, alpha=16))
        >>> cl.LoraSettings(dropuot=0.5)
        Traceback (most recent call last):
        ...
        caft_lens._support.errors.BadType: LoraSettings has no "dropuot". Did you mean "dropout"?
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, arbitrary_types_allowed=True)

    def __init__(self, **given: Any) -> None:
        known = type(self).model_fields
        for name in given:
            if name not in known:
                raise BadType(f'{type(self).__name__} has no "{name}".{nearest(name, known)}')
        try:
            super().__init__(**given)
        except ValidationError as error:
            first = error.errors()[0]
            reason = first.get("ctx", {}).get("error")
            if isinstance(reason, CaftLensError):
                raise reason from None
            where = ".".join(map(str, first["loc"]))
            raise BadType(f"{where}={first['input']!r}: {first['msg'].lower()}.") from None

    @property
    def said(self) -> dict[str, Any]:
        """What was given, without what stays at its default."""
        return {name: getattr(self, name) for name in type(self).model_fields if name in self.model_fields_set}

    def but(self, **changes: Any) -> Self:
        """The same settings with some changed; checked anew."""
        return type(self)(**{**self.said, **changes})

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        yield from self.said.items()
