"""Who speaks, for `callbus doctor`: is the model's endpoint there, does it take the key, does it know the models."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass

import aiohttp

from cli.agent_models import worker_settings
from cli.findings import Finding, Site
from libs.contracts.agent import AgentConfig
from services.ai_session.settings import Settings

TIMEOUT_S = 5.0
MOST_BYTES = 1 << 20
NO_KEY_REMEDY = "set it in .env, or use --rehearsal"


@dataclass(frozen=True, slots=True)
class Listing:
    """What `GET /models` said: a status and the models' names, or why there was no answer."""

    status: int = 0
    models: frozenset[str] = frozenset()
    problem: str = ""


async def listing(base_url: str, api_key: str) -> Listing:
    """Ask an endpoint for its models; never raises."""
    base = base_url.rstrip("/")
    if base.startswith("ws"):
        base = f"http{base.removeprefix('ws')}"
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    try:
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.get(f"{base}/models", headers=headers) as response,
        ):
            body = await response.content.read(MOST_BYTES)
            return Listing(response.status, _names(body) if response.status == 200 else frozenset())
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
        return Listing(problem=str(error) or type(error).__name__)


def _names(body: bytes) -> frozenset[str]:
    try:
        return frozenset(str(model["id"]) for model in json.loads(body)["data"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return frozenset()


async def check_model(site: Site) -> list[Finding]:
    """Who speaks: OpenAI, another endpoint, or the rehearsal; it answers, and takes the key."""
    if site.rehearses:
        return [
            Finding(
                "model", "warn", "the rehearsal speaks instead of a model: one prepared conversation",
                "set OPENAI_API_KEY in .env and start `callbus up` again",
            )
        ]  # fmt: skip
    settings = site.settings
    if not settings.openai_api_key and not settings.openai_base_url:
        return [Finding("model", "fail", "there is no OPENAI_API_KEY", NO_KEY_REMEDY)]
    where = settings.openai_base_url or "OpenAI"
    return [_judged(where, await _ask(worker_settings(settings)))]


def _judged(where: str, said: Listing) -> Finding:
    match said:
        case Listing(status=200):
            return Finding("model", "ok", f"agents speak through {where}: it takes the key, {len(said.models)} models")
        case Listing(status=401 | 403 as status):
            remedy = "check OPENAI_API_KEY in .env: whole, of this endpoint, not revoked"
            return Finding("model", "fail", f"{where} refuses the key ({status})", remedy)
        case Listing(status=0):
            remedy = "check OPENAI_BASE_URL, the network, a proxy and the provider's status page"
            return Finding("model", "fail", f"{where} cannot be reached: {said.problem}", remedy)
        case Listing(status=404 | 405):
            return Finding("model", "ok", f"agents speak through {where}, which lists no models")
    remedy = "look at the provider's status page; calls may fail meanwhile"
    return Finding("model", "warn", f"{where} answers {said.status} when asked for its models", remedy)


async def _ask(workers: Settings) -> Listing:
    key = workers.openai_api_key
    return await listing(workers.openai_base_url, key.get_secret_value() if key is not None else "")


async def unknown_models(agents: Iterable[AgentConfig], workers: Settings) -> list[Finding]:
    """Agents whose model the endpoint does not list; nothing where it lists none."""
    users: dict[str, list[str]] = {}
    for agent in agents:
        default = {"realtime": workers.openai_model, "live": workers.live_model}.get(agent.backend)
        if default is not None:
            users.setdefault(agent.model or default, []).append(agent.name)
    known = (await _ask(workers)).models if users else frozenset()
    if not known:
        return []
    return [
        Finding(
            "models", "fail", f"the endpoint does not know model {name} of agent {', '.join(sorted(names))}",
            "correct `model` in the agent's document, or ask the provider for access to it",
        )
        for name, names in sorted(users.items())
        if name not in known
    ]  # fmt: skip
