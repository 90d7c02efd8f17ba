"""What agents need of models and their vendors, ends and keys, for `callbus doctor`. No I/O but `worker_settings`."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date
from typing import Literal, NamedTuple

from pydantic import SecretStr

from cli.service_settings import read_settings
from cli.settings import CliSettings
from libs.contracts.agent import AgentConfig
from services.ai_session.costs import Models
from services.ai_session.model_watch import Defaults, ModelWatch, models_of
from services.ai_session.settings import Settings, is_openai

SOON_DAYS = 60


class Told(NamedTuple):
    """A finding: how bad, a sentence, what to do."""

    state: Literal["ok", "warn", "fail"]
    text: str
    remedy: str = ""


def worker_settings(settings: CliSettings) -> Settings:
    """What workers started here would read.

    Raises:
        CliError: a setting is wrong.
    """
    read = read_settings(Settings)
    key, url = settings.openai_api_key, settings.openai_base_url
    update = {"openai_api_key": SecretStr(key) if key else read.openai_api_key, "openai_base_url": url}
    return read.model_copy(update={name: value for name, value in update.items() if value})


def endings(agents: Iterable[AgentConfig], defaults: Defaults, models: Models, today: date) -> list[Told]:
    """Agents whose models end within `SOON_DAYS`, one finding per model."""
    users: dict[str, list[str]] = {}
    for agent in agents:
        for name in models_of(agent, defaults):
            users.setdefault(name, []).append(agent.name)
    watch, found = ModelWatch(models), []
    for name, names in sorted(users.items()):
        ending = watch.ending(name, today)
        if ending is None or ending.days > SOON_DAYS:
            continue
        remedy = _remedy(models, name, ending.replacement)
        whose = f"of agent{'s' if len(names) > 1 else ''} {', '.join(sorted(names))}"
        when = f"was shut down on {ending.ends}" if ending.days < 0 else f"ends on {ending.ends}, in {ending.days} days"
        found.append(Told("fail" if ending.days < 0 else "warn", f"model {name} {whose} {when}", remedy))
    return found


def _remedy(models: Models, name: str, replacement: str | None) -> str:
    if models.get(name).kind == "speech" and models.get(replacement or "").kind == "realtime":
        return f"let the agent speak with speech.provider realtime ({replacement}), elevenlabs or local"
    return f"use {replacement} instead" if replacement else "choose another model (docs/costs.md)"


def missing_keys(agents: Iterable[AgentConfig], settings: Settings) -> list[Told]:
    """Agents that no worker could serve for want of a key or a voice; one finding per thing that is missing."""
    lacking: dict[tuple[str, str], list[str]] = {}
    for agent in agents:
        for what in _lacking(agent, settings):
            lacking.setdefault(what, []).append(agent.name)
    return [
        Told("fail", f"there is no {name} for agent{'s' if len(users) > 1 else ''} {', '.join(sorted(users))}", remedy)
        for (name, remedy), users in sorted(lacking.items())
    ]


def _lacking(agent: AgentConfig, settings: Settings) -> list[tuple[str, str]]:
    openai = settings.openai_api_key
    found = []
    if agent.backend in ("realtime", "live") and is_openai(settings.openai_base_url) and openai is None:
        found.append(("OPENAI_API_KEY", "set it in .env, or OPENAI_BASE_URL to an endpoint that needs none"))
    if agent.backend == "pipeline":
        stages = (
            ("TRANSCRIPTION", settings.transcription_base_url, settings.transcription_api_key),
            ("CHAT", settings.chat_base_url, settings.chat_api_key),
        )
        found += [_of_stage(name) for name, url, key in stages if _stage_lacks(url, key, settings)]
    provider = agent.speech.provider or (settings.speech_provider if agent.backend == "pipeline" else None)
    if provider == "openai" and _stage_lacks(settings.speech_base_url, settings.speech_api_key, settings):
        found.append(_of_stage("SPEECH"))
    if provider == "elevenlabs":
        if settings.elevenlabs_api_key is None and "elevenlabs.io" in settings.elevenlabs_base_url:
            found.append(("ELEVENLABS_API_KEY", "set it in .env, or another speech.provider"))
        if not (settings.elevenlabs_voice_id or agent.speech.voice):
            found.append(("ELEVENLABS_VOICE_ID", "set it in .env, or the agent's speech.voice"))
    return found


def _of_stage(name: str) -> tuple[str, str]:
    return f"{name}_API_KEY or OPENAI_API_KEY", f"set one in .env, or {name}_BASE_URL to an endpoint that needs none"


def _stage_lacks(url: str | None, key: SecretStr | None, settings: Settings) -> bool:
    return is_openai(url or settings.openai_base_url) and not settings.stage_key(url, key)
