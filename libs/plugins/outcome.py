"""From what a tool gave back to what the model is told: JSON of a bounded size, or a sentence. Pure."""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel

from libs.contracts.tool import ToolReply

MOST_ERROR_CHARACTERS = 500
MOST_DEPTH = 64
MOST_VALUES = 100_000


def reply_of(name: str, result: object, most_bytes: int) -> ToolReply:
    """The reply for a result; what JSON cannot say, or is too large, is a failure that the model can speak of."""
    if isinstance(result, ToolReply):
        return result
    try:
        if isinstance(result, BaseModel):
            result = result.model_dump(mode="json")
        text = as_json(result)
        size_bytes = len(text.encode())
    except (ValueError, TypeError, RecursionError) as error:
        return failed(f"The tool {name} gave a result that cannot be used ({str(error)[:80]}).")
    if size_bytes > most_bytes:
        return too_large(name, size_bytes, most_bytes)
    return ToolReply(ok=True, output=json.loads(text))


def as_json(value: object) -> str:
    """A value as JSON text that every parser reads.

    Raises:
        ValueError, TypeError, RecursionError: NaN, an object, half a surrogate pair, too deep, too many values.
    """
    _check_shape(value)
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, default=_plain)
    text.encode()
    return text


def too_large(name: str, size_bytes: int, most_bytes: int) -> ToolReply:
    """Instead of a result that would fill the model's context."""
    return failed(
        f"The tool {name} found too much to be told here ({size_bytes} bytes; at most {most_bytes}). Ask for less."
    )


def failed(sentence: str) -> ToolReply:
    """A failure as the model is told of it."""
    return ToolReply(ok=False, error=sentence[:MOST_ERROR_CHARACTERS])


def _plain(value: object) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, set | frozenset | tuple):
        return list(value)
    if hasattr(value, "isoformat"):
        return value.isoformat()
    raise TypeError(f"a {type(value).__name__} is not JSON")


def _check_shape(result: object) -> None:
    """Level by level: an encoder that recurses into a cycle or a great depth can bring the interpreter down.

    Raises:
        ValueError: it is nested too deeply, in a circle perhaps, or holds too many values.
    """
    level, values = [result], 0
    for _ in range(MOST_DEPTH):
        below: list[object] = []
        for entry in level:
            if isinstance(entry, dict):
                below += entry.values()
            elif isinstance(entry, list | tuple | set | frozenset):
                below += entry
        values += len(below)
        if values > MOST_VALUES:
            raise ValueError(f"more than {MOST_VALUES} values")
        if not below:
            return
        level = below
    raise ValueError(f"nested more than {MOST_DEPTH} levels deep")
