"""What responses, transcriptions, speech and session time cost, from usage and the model table. Pure but for `load`."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

_MILLION = 1_000_000
_MS_PER_INPUT_TOKEN = 100  # of audio
_KINDS = ("text_tokens", "audio_tokens")
_DATED = re.compile(r"-\d{4}-\d{2}-\d{2}$")

Kind = Literal["realtime", "live", "transcription", "chat", "speech"]
Price = Annotated[float, Field(ge=0)]


class ModelsFileError(ValueError):
    """The model table cannot be read; the message names the file and the entry."""


class Model(BaseModel):
    """One model's prices (USD; the head of models.toml has the units) and its end. None: not known."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Kind | None = None
    reasoning: bool = False
    shutdown: date | None = None
    replacement: str | None = None
    aliases: tuple[str, ...] = ()
    price_source: Literal["vendor", "third_party"] = "vendor"
    text_in: Price | None = None
    text_cached: Price | None = None
    text_out: Price | None = None
    audio_in: Price | None = None
    audio_cached: Price | None = None
    audio_out: Price | None = None
    minute: Price | None = None
    characters: Price | None = None

    @property
    def is_priced(self) -> bool:
        """Whether the cost of all that it does can be told."""
        text = None not in (self.text_in, self.text_out)
        match self.kind:
            case "realtime":
                return text and None not in (self.audio_in, self.audio_out)
            case "live":
                return self.minute is not None
            case "transcription":
                return self.minute is not None or None not in (self.audio_in, self.text_out)
            case "speech":
                by_token = None not in (self.text_in, self.audio_out)
                return self.minute is not None or self.characters is not None or by_token
            case _:
                return text or self.minute is not None or self.characters is not None


@dataclass(frozen=True, slots=True)
class Models:
    """The table."""

    models: Mapping[str, Model] = field(default_factory=dict)
    transcription: str = "gpt-transcribe"
    voice: str = "marin"

    def get(self, name: str) -> Model:
        """A model's entry; a dated id that the table does not name counts as the undated one.

        An unknown model has no prices and no end.
        """
        found = self.models.get(name) or self.models.get(_DATED.sub("", name))
        return found or Model()

    def cost_of_response(self, name: str, tokens: Mapping[str, int]) -> float | None:
        """Cost of a response, spoken or written; None when the model's prices are not known.

        Cached tokens are a subset of the input; where their price is not known they cost as much as the others. Every
        generated token is billed, heard or not.
        """
        model = self.get(name)
        total = 0.0
        for taken_price, cached_price, made_price, kind in (
            (model.text_in, model.text_cached, model.text_out, "text"),
            (model.audio_in, model.audio_cached, model.audio_out, "audio"),
        ):
            taken, made = tokens.get(f"{kind}_in", 0), tokens.get(f"{kind}_out", 0)
            cached = min(tokens.get(f"{kind}_cached", 0), taken)
            if (taken and taken_price is None) or (made and made_price is None):
                return None
            full = taken_price or 0.0
            discounted = full if cached_price is None else cached_price
            total += (taken - cached) * full + cached * discounted + made * (made_price or 0.0)
        return total / _MILLION

    def cost_of_transcription(self, name: str, tokens: Mapping[str, int], seconds: float | None) -> float | None:
        """Cost of a transcription, by minute or by token as the model is priced."""
        model = self.get(name)
        if model.minute is None:
            return self.cost_of_response(name, tokens) if tokens else None
        if seconds is None and not tokens:
            return None
        if seconds is None:
            seconds = tokens.get("audio_in", 0) * _MS_PER_INPUT_TOKEN / 1000
        return max(0.0, seconds) / 60 * model.minute

    def cost_of_speech(
        self,
        name: str,
        *,
        characters: int | None = None,
        tokens: Mapping[str, int] | None = None,
        seconds: float | None = None,
    ) -> float | None:
        """Cost of a text that was spoken, by whichever of its measures the model is priced; None: not known."""
        model = self.get(name)
        if model.characters is not None and characters is not None:
            return max(0, characters) / 1000 * model.characters
        if model.minute is not None and seconds is not None:
            return max(0.0, seconds) / 60 * model.minute
        return self.cost_of_response(name, tokens) if tokens else None

    def cost_of_session(self, name: str, seconds: float) -> float | None:
        """Cost of so much more session time (`RunningTotal` makes it of the cumulative seconds that Live tells)."""
        model = self.get(name)
        return None if model.minute is None else max(0.0, seconds) / 60 * model.minute


@dataclass(slots=True)
class RunningTotal:
    """Increments of a total that is told again and again, as the seconds of a Live session are.

    Reports may be repeated or overtake each other: a total that is not above the highest one adds nothing. A new
    session has a new one.
    """

    highest: float = 0.0

    def grown_to(self, total: float) -> float:
        """What came since the highest total so far."""
        grown = max(0.0, total - self.highest)
        self.highest = max(self.highest, total)
        return grown


def tokens_of(usage: Mapping[str, Any] | None, *, speaks: bool = True) -> dict[str, int]:
    """Flatten the Realtime API's usage object; missing or strange parts count as nothing.

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
    if all(taken.get(kind) is None for kind in _KINDS):
        found["audio_in"] = usage.get("input_tokens")
    if all(made.get(kind) is None for kind in _KINDS):
        found["audio_out" if speaks else "text_out"] = usage.get("output_tokens")
    return _counts(found)


def tokens_of_text(usage: Mapping[str, Any] | None) -> dict[str, int]:
    """Flatten the usage of chat completions (`prompt_tokens` ...) or of the Responses API (`input_tokens` ...).

    Reasoning tokens are a part of the output in both.
    """
    if not isinstance(usage, Mapping):
        return {}
    of_chat = "prompt_tokens" in usage
    details = _section(usage, "prompt_tokens_details" if of_chat else "input_tokens_details")
    return _counts(
        {
            "text_in": usage.get("prompt_tokens" if of_chat else "input_tokens"),
            "text_cached": details.get("cached_tokens"),
            "text_out": usage.get("completion_tokens" if of_chat else "output_tokens"),
        }
    )


def tokens_of_speech(usage: Mapping[str, Any] | None) -> dict[str, int]:
    """Flatten the usage of spoken text: text goes in, audio comes out."""
    if not isinstance(usage, Mapping):
        return {}
    return _counts({"text_in": usage.get("input_tokens"), "audio_out": usage.get("output_tokens")})


def _counts(found: Mapping[str, object]) -> dict[str, int]:
    return {name: count for name, count in found.items() if isinstance(count, int) and count > 0}


def _section(parent: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    section = parent.get(name)
    return section if isinstance(section, Mapping) else {}


def load(path: Path) -> Models:
    """Read a model table; aliases stand in it as entries of their own.

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
    aliases = {alias: model for model in models.values() for alias in model.aliases}
    return Models(aliases | models, defaults.get("transcription", "gpt-transcribe"), defaults.get("voice", "marin"))
