"""What a response or a transcription costs, from its usage and the model table. Pure but for `load`."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

_MILLION = 1_000_000
_MS_PER_INPUT_TOKEN = 100  # of audio


class ModelsFileError(ValueError):
    """The model table cannot be read; the message names the file and the entry."""


class Model(BaseModel):
    """One model's prices (USD per million tokens, or per minute) and its end."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    reasoning: bool = False
    shutdown: date | None = None
    text_in: float | None = None
    text_cached: float | None = None
    text_out: float | None = None
    audio_in: float | None = None
    audio_cached: float | None = None
    audio_out: float | None = None
    minute: float | None = None

    @property
    def is_priced(self) -> bool:
        """Whether the cost of its responses can be told."""
        return None not in (self.text_in, self.text_out, self.audio_in, self.audio_out)


@dataclass(frozen=True, slots=True)
class Models:
    """The table."""

    models: Mapping[str, Model] = field(default_factory=dict)
    transcription: str = "gpt-transcribe"
    voice: str = "marin"

    def get(self, name: str) -> Model:
        """A model's entry; an unknown one has no prices and no end."""
        return self.models.get(name, Model())

    def cost_of_response(self, name: str, tokens: Mapping[str, int]) -> float | None:
        """Cost of a response; None when the model's prices are not known.

        Cached tokens are a subset of the input. Every generated token is billed, heard or not.
        """
        model = self.get(name)
        total = 0.0
        for kind in ("text", "audio"):
            cached = tokens.get(f"{kind}_cached", 0)
            parts = (
                (tokens.get(f"{kind}_in", 0) - cached, getattr(model, f"{kind}_in")),
                (cached, getattr(model, f"{kind}_cached")),
                (tokens.get(f"{kind}_out", 0), getattr(model, f"{kind}_out")),
            )
            for count, price in parts:
                if count and price is None:
                    return None
                total += count * (price or 0.0)
        return total / _MILLION

    def cost_of_transcription(self, name: str, tokens: Mapping[str, int], seconds: float | None) -> float | None:
        """Cost of a transcription, by minute or by token as the model is priced."""
        model = self.get(name)
        if model.minute is None:
            return self.cost_of_response(name, tokens) if tokens else None
        if seconds is None:
            seconds = tokens.get("audio_in", 0) * _MS_PER_INPUT_TOKEN / 1000
        return seconds / 60 * model.minute


def tokens_of(usage: Mapping[str, Any] | None, *, speaks: bool = True) -> dict[str, int]:
    """Flatten the API's usage object; missing or strange parts count as nothing.

    Where a server gives totals without details, they count as audio, the dearer kind, so that a budget holds; but
    the output of a model that does not speak (a transcription) is text.
    """
    if not isinstance(usage, Mapping):
        return {}
    taken = _section(usage, "input_token_details")
    cached = _section(taken, "cached_tokens_details")
    made = _section(usage, "output_token_details")
    found = {
        "text_in": taken.get("text_tokens"),
        "audio_in": taken.get("audio_tokens"),
        "text_cached": cached.get("text_tokens"),
        "audio_cached": cached.get("audio_tokens"),
        "text_out": made.get("text_tokens"),
        "audio_out": made.get("audio_tokens"),
    }
    if not taken:
        found["audio_in"] = usage.get("input_tokens")
    if not made:
        found["audio_out" if speaks else "text_out"] = usage.get("output_tokens")
    return {name: count for name, count in found.items() if isinstance(count, int) and count > 0}


def _section(parent: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    section = parent.get(name)
    return section if isinstance(section, Mapping) else {}


def load(path: Path) -> Models:
    """Read a model table.

    Raises:
        ModelsFileError: naming file and entry.
    """
    try:
        table = tomllib.loads(path.read_text("utf-8"))
        models = TypeAdapter(dict[str, Model]).validate_python(table.get("models", {}))
    except OSError as error:
        raise ModelsFileError(f"{path}: {error.strerror}") from None
    except tomllib.TOMLDecodeError as error:
        raise ModelsFileError(f"{path}: {error}") from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise ModelsFileError(f"{path}: models.{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    defaults = table.get("defaults", {})
    return Models(models, defaults.get("transcription", "gpt-transcribe"), defaults.get("voice", "marin"))
