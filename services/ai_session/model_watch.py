"""Which models are in use, when they end, and whom to tell. A core without I/O.

Dates come from the model table; what the endpoint itself says of a model (`GET /v1/models`) is newer and counts more.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from typing import Any, Literal

from libs.contracts.agent import AgentConfig
from services.ai_session.costs import Models
from services.ai_session.settings import Settings

WARN_DAYS = 120  # ahead, in the log; an operator plans in quarters
MOST_MODELS = 50  # in use at once: agents name what they like, metrics stay small
SPEECH_MODEL = "gpt-4o-mini-tts"
READING_MODEL = "gpt-realtime-2.1-mini"


@dataclass(frozen=True, slots=True)
class Defaults:
    """What agents get that name no model of their own: the worker's settings."""

    realtime: str
    live: str
    chat: str
    transcription: str
    speech_provider: Literal["openai", "realtime", "elevenlabs", "local"]
    elevenlabs: str
    speech: str = SPEECH_MODEL

    @classmethod
    def of(cls, settings: Settings, models: Models) -> Defaults:
        """As the worker's environment and the model table say."""
        return cls(
            realtime=settings.openai_model,
            live=settings.live_model,
            chat=settings.chat_model,
            transcription=models.transcription,
            speech_provider=settings.speech_provider,
            elevenlabs=settings.elevenlabs_model,
            speech=settings.openai_tts_model,
        )

    @property
    def always(self) -> tuple[str, ...]:
        """In use before the first call."""
        return self.realtime, self.transcription


def models_of(agent: AgentConfig, defaults: Defaults) -> set[str]:
    """All models that calls of an agent use, so far as its document and the settings tell."""
    match agent.backend:
        case "realtime":
            speaks = agent.model or defaults.realtime
            used = {speaks, agent.transcription.model or defaults.transcription}
            reads = speaks
        case "live":
            delegate = str(agent.backend_options.get("chat_model") or defaults.chat)
            used, reads = {agent.model or defaults.live, delegate}, READING_MODEL
        case "pipeline":
            used = {agent.model or defaults.chat, agent.transcription.model or defaults.transcription}
            reads = READING_MODEL
        case _:
            return set()
    provider = agent.speech.provider or (None if agent.backend != "pipeline" else defaults.speech_provider)
    voices = {"openai": defaults.speech, "realtime": reads, "elevenlabs": defaults.elevenlabs}
    if provider in voices:
        used.add(agent.speech.model or voices[provider])
    return used


@dataclass(frozen=True, slots=True)
class Ending:
    """A model that ends: `days` are left, none or fewer when it has ended."""

    model: str
    ends: date
    days: int
    replacement: str | None

    @property
    def sentence(self) -> str:
        """For people."""
        if self.days < 0:
            when = f"was shut down on {self.ends}"
        else:
            when = f"ends on {self.ends} ({self.days} day{'' if self.days == 1 else 's'})"
        return f"{self.model} {when}" + (f": use {self.replacement}" if self.replacement else "")


class ModelWatch:
    """The models that this process uses, and their ends."""

    def __init__(self, models: Models) -> None:
        self._models = models
        self._used: set[str] = set()
        self._told: dict[str, date] = {}
        self._warned: set[tuple[str, date]] = set()

    def use(self, names: Iterable[str]) -> None:
        """These are used from now on."""
        for name in names:
            if len(self._used) < MOST_MODELS:
                self._used.add(name)

    def told(self, listing: Mapping[str, date]) -> None:
        """What the endpoint says of its models."""
        self._told.update(listing)

    def ending(self, name: str, today: date) -> Ending | None:
        """When a model ends; None: nobody says that it does."""
        entry = self._models.get(name)
        ends = self._told.get(name, entry.shutdown)
        return None if ends is None else Ending(name, ends, (ends - today).days, entry.replacement)

    def warnings(self, today: date) -> list[Ending]:
        """What is to be told now: each model and date once, `WARN_DAYS` ahead."""
        found = [ending for name in sorted(self._used) if (ending := self.ending(name, today)) is not None]
        new = [each for each in found if each.days <= WARN_DAYS and (each.model, each.ends) not in self._warned]
        self._warned.update((each.model, each.ends) for each in new)
        return new

    def timestamps(self) -> dict[str, float]:
        """Unix time at which each model in use ends; those without an end are left out."""
        ends = {name: self._told.get(name, self._models.get(name).shutdown) for name in self._used}
        return {
            name: datetime.combine(end, time(), UTC).timestamp()
            for name, end in sorted(ends.items())
            if end is not None
        }


def shutdown_dates(listing: Any) -> dict[str, date]:
    """The models with a `shutdown_date` in the answer of `GET /v1/models`: a date or time in ISO 8601, or Unix time.

    Strange entries are left out, so that another vendor's listing does no harm.
    """
    entries = listing.get("data") if isinstance(listing, Mapping) else None
    found: dict[str, date] = {}
    for entry in entries if isinstance(entries, list) else ():
        if isinstance(entry, Mapping) and isinstance(name := entry.get("id"), str):
            ends = _date_of(entry.get("shutdown_date"))
            if ends is not None:
                found[name] = ends
    return found


def _date_of(value: object) -> date | None:
    try:
        if isinstance(value, str):
            return date.fromisoformat(value[:10])
        if isinstance(value, int | float) and not isinstance(value, bool):
            return datetime.fromtimestamp(value, UTC).date()
    except (ValueError, OverflowError, OSError):
        pass
    return None
