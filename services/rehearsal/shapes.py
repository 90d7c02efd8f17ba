"""Checks of HTTP bodies against the types of the ``openai`` package, requests and answers alike.

Requests are typed dicts there, whose validation ignores unknown keys and leaves iterables for later; here an
unknown key is refused and iterables are read to their end.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

from pydantic import BaseModel, TypeAdapter, ValidationError

from services.rehearsal.outputs import Frame
from services.rehearsal.refusals import ApiError, invalid, missing, unknown_parameter
from services.rehearsal.validation import ServerEventError, field_path, unknown_fields


@cache
def _adapter(shape: Any) -> TypeAdapter[Any]:
    return TypeAdapter(shape)


def check_request(shape: Any, value: object, prefix: str = "") -> None:
    """Raise ApiError (400) with the path of the first field of ``value`` that ``shape`` does not have or take."""
    try:
        known = _read(_adapter(shape).validate_python(value, strict=True), ())
    except _Located as located:
        raise _refusal(located.error, prefix, located.path) from located.error
    except ValidationError as error:
        raise _refusal(error, prefix, ()) from error
    unknown = _unknown(value, known, prefix)
    if unknown is not None:
        raise unknown_parameter(unknown)


def check_answer(model: type[BaseModel], frame: Frame) -> None:
    """Raise ServerEventError unless ``frame`` is a complete object of the package's ``model``."""
    try:
        parsed = model.model_validate(frame, strict=True)
    except ValidationError as error:
        raise ServerEventError(f"{model.__name__}: {error}") from error
    extra = unknown_fields(parsed, "")
    if extra:
        raise ServerEventError(f"{model.__name__}: fields unknown to the models: {', '.join(extra)}")


class _Located(Exception):
    """A value inside an iterable at ``path`` that its shape does not take."""

    def __init__(self, error: ValidationError, path: tuple[int | str, ...]) -> None:
        super().__init__(str(error))
        self.error, self.path = error, path


def _read(value: Any, path: tuple[int | str, ...]) -> Any:
    if isinstance(value, dict):
        return {name: _read(member, (*path, name)) for name, member in value.items()}
    if isinstance(value, list | Iterator):
        try:
            return [_read(member, (*path, index)) for index, member in enumerate(value)]
        except ValidationError as error:
            raise _Located(error, path) from error
    return value


def _refusal(error: ValidationError, prefix: str, path: tuple[int | str, ...]) -> ApiError:
    first = error.errors(include_url=False)[0]
    param = field_path(prefix, (*path, *first["loc"]))
    if first["type"] == "missing":
        return missing(param)
    return invalid(param, str(first["msg"]).removesuffix("."))


def _unknown(value: object, known: object, path: str) -> str | None:
    if isinstance(value, dict) and isinstance(known, dict):
        dot = f"{path}." if path else ""
        for name, member in value.items():
            found = f"{dot}{name}" if name not in known else _unknown(member, known[name], f"{dot}{name}")
            if found is not None:
                return found
    elif isinstance(value, list) and isinstance(known, list):
        for index, (member, counterpart) in enumerate(zip(value, known, strict=True)):
            if (found := _unknown(member, counterpart, f"{path}[{index}]")) is not None:
                return found
    return None
