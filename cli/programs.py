"""Which processes make up a callbus on one machine, with which ports and settings."""

from __future__ import annotations

import secrets
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cli import checkout
from cli.ports import free_port, is_free

REHEARSAL_KEY = "rehearsal"  # the stand-in accepts any key; clients insist on one
REHEARSAL_SCENARIO = "bestellung"
NATS_PORT = 4222
BROWSER_PORT = 8090
NATS_USERS = ("gateway", "browser", "worker", "tools", "store", "recorder", "local")  # as in deploy/nats/nats.conf
# Whoever ends `up` wants it to end: calls get a moment, not the ten minutes of a rolling update.
GATEWAY_DRAIN_S = "2"
WORKER_DRAIN_S = "1"


@dataclass(frozen=True, slots=True)
class Program:
    """A process: how it is started, where it says that it is ready, when it is ended (lower phases first; started
    the other way round)."""

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str]
    where: str
    phase: int
    ready_url: str | None = None
    ready_port: int | None = None
    health_port: int | None = None


@dataclass(frozen=True, slots=True)
class Options:
    """What the person decides; everything else follows."""

    var: Path
    workers: int = 2
    sip_host: str = "127.0.0.1"
    sip_port: int = 5060
    rehearsal: bool = True
    nats_port: int | None = None  # None: 4222 when it is free, else any
    browser: bool = True
    browser_host: str = "127.0.0.1"
    browser_port: int | None = None  # None: 8090 when it is free, else any; 0: any
    twilio: bool = False  # once its account is set
    database_urls: Mapping[str, str] = field(default_factory=dict)  # by variable, where the person set them
    environment: Mapping[str, str] = field(default_factory=dict)  # for every service
    worker_environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Plan:
    """The processes of one `up` or `demo`, the bus first."""

    nats: Program
    services: tuple[Program, ...]
    nats_url: str
    rehearsal_url: str | None

    @property
    def programs(self) -> tuple[Program, ...]:
        """All of them."""
        return (self.nats, *self.services)


def plan(options: Options) -> Plan:
    """Choose ports and settings.

    Raises:
        CliError: nats-server is not installed.
    """
    wanted = options.nats_port or (NATS_PORT if is_free(NATS_PORT, "127.0.0.1", "tcp") else free_port())
    nats_url = f"nats://127.0.0.1:{wanted}"
    passwords = {f"NATS_{user.upper()}_PASSWORD": f"p{secrets.token_hex(16)}" for user in NATS_USERS}
    nats = Program(
        name="nats-server",
        argv=(checkout.nats_server(), "-c", str(checkout.NATS_CONFIG)),
        env={"NATS_PORT": str(wanted), "NATS_STORE": str(options.var / "nats"), **passwords},
        where=nats_url,
        phase=3,
        ready_port=wanted,
    )

    def common(user: str) -> dict[str, str]:
        password = passwords[f"NATS_{user.upper()}_PASSWORD"]
        return {"NATS_URL": f"nats://{user}:{password}@127.0.0.1:{wanted}", **options.environment}

    services: list[Program] = []
    worker_env = dict(options.worker_environment) | {"WORKER_DRAIN_TIMEOUT_S": WORKER_DRAIN_S}
    rehearsal_url = None
    if options.rehearsal:
        rehearsal = _rehearsal(free_port())
        services.append(rehearsal)
        rehearsal_url = rehearsal.where
        worker_env |= {"OPENAI_BASE_URL": f"{rehearsal_url}/v1", "OPENAI_API_KEY": REHEARSAL_KEY}
    for name, user, variable, file in (
        ("catalog_tools", "tools", "CATALOG_DATABASE_URL", "catalog.db"),
        ("transcript_store", "store", "TRANSCRIPT_DATABASE_URL", "transcripts.db"),
    ):
        url = options.database_urls.get(variable) or f"sqlite:///{options.var / file}"
        services.append(_service(name, common(user) | {variable: url}, phase=2))
    recorder = {"RECORDER_SPOOL": str(options.var / "recordings"), "OBJECT_STORE_URL": str(options.var / "objects")}
    services.append(_service("recorder", recorder | common("recorder"), phase=1))
    worker_env.setdefault("OBJECT_STORE_URL", recorder["OBJECT_STORE_URL"])
    for number in range(1, options.workers + 1):
        services.append(_service("ai_session", common("worker") | worker_env, phase=1, label=f"ai_session-{number}"))
    sip = {
        "SIP_LISTEN_HOST": options.sip_host,
        "SIP_LISTEN_PORT": str(options.sip_port),
        "DRAIN_TIMEOUT_S": GATEWAY_DRAIN_S,
    }
    address = f"udp {options.sip_host}:{options.sip_port}"
    services.append(_service("sip_gateway", common("gateway") | sip, phase=0, where=address))
    if options.twilio:
        services.append(_service("twilio_gateway", common("gateway") | {"DRAIN_TIMEOUT_S": GATEWAY_DRAIN_S}, phase=0))
    if options.browser:
        host, port = options.browser_host, options.browser_port
        if port is None and is_free(BROWSER_PORT, host, "tcp"):
            port = BROWSER_PORT
        port = port or free_port()
        page = {
            "BROWSER_LISTEN_HOST": host,
            "BROWSER_LISTEN_PORT": str(port),
            "BROWSER_DRAIN_TIMEOUT_S": GATEWAY_DRAIN_S,
        }
        reached = "127.0.0.1" if host in ("0.0.0.0", "::") else host
        url = f"http://{f'[{reached}]' if ':' in reached else reached}:{port}"
        services.append(_service("browser_gateway", common("browser") | page, phase=0, where=url))
    return Plan(nats, tuple(services), nats_url, rehearsal_url)


def _service(name: str, env: Mapping[str, str], *, phase: int, label: str = "", where: str = "") -> Program:
    port = free_port()
    return Program(
        name=label or name,
        argv=(sys.executable, "-m", f"services.{name}"),
        env=dict(env) | {"HEALTH_HOST": "127.0.0.1", "HEALTH_PORT": str(port)},
        where=where or f"http://127.0.0.1:{port}",
        phase=phase,
        ready_url=f"http://127.0.0.1:{port}/readyz",
        health_port=port,
    )


def _rehearsal(port: int) -> Program:
    env = {
        "REHEARSAL_HOST": "127.0.0.1",
        "REHEARSAL_PORT": str(port),
        "REHEARSAL_SCENARIOS": str(checkout.SCENARIOS),
        "REHEARSAL_DEFAULT_SCENARIO": REHEARSAL_SCENARIO,
    }
    url = f"http://127.0.0.1:{port}"
    argv = (sys.executable, "-m", "services.rehearsal")
    return Program("rehearsal", argv, env, url, phase=2, ready_url=f"{url}/healthz", health_port=port)
