"""`callbus doctor`: what is wrong or missing here, each with what to do about it.

A check is one function of a `Site` that returns its findings; a new one is written and put into `CHECKS`. Checks of
the bus stand in `BUS_CHECKS`: they are left out where there is none.
"""

from __future__ import annotations

import asyncio
from dataclasses import asdict

import aiohttp
import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.errors import BucketNotFoundError, KeyNotFoundError, NotFoundError
from pydantic import ValidationError
from rich.console import Console
from rich.text import Text

from cli.agent_models import endings, missing_keys, worker_settings
from cli.apply import missing_tools, offered_tools
from cli.bus import bus_address, connected, explained, keys_of, query
from cli.bus_checks import age_findings, check_clock, recorder_findings
from cli.costs import load_models, spent_today
from cli.errors import CliError, NotRunning
from cli.findings import Check, Finding, Site
from cli.machine_checks import check_disk, check_ntp, check_object_store, check_ports
from cli.model_endpoint import check_model, unknown_models
from cli.queries import CATALOG_TOOLS, TRANSCRIPT_STORE, print_json
from cli.settings import CliSettings
from cli.state import running
from cli.trunks import trunks
from libs.contracts import subjects
from libs.contracts.agent import AgentConfig
from libs.contracts.config import ConfigDocument, RouteConfig
from libs.contracts.heartbeat import GatewayHeartbeat, WorkerHeartbeat
from libs.contracts.wire import config_decoder
from libs.runtime.spending_copy import today
from services.ai_session.model_watch import Defaults

HEARD_S = 0.6  # six heartbeats: one that is late does not make a process dead
HEALTH_TIMEOUT_S = 2.0


async def examine(console: Console, settings: CliSettings, nats_url: str | None, as_json: bool) -> bool:
    """Print what was found; whether nothing is broken."""
    found = await findings(settings, nats_url)
    if as_json:
        print_json([asdict(finding) for finding in found])
    else:
        for finding in found:
            show(console, finding)
    return all(finding.state != "fail" for finding in found)


async def findings(settings: CliSettings, nats_url: str | None) -> list[Finding]:
    """Of all checks, in their order."""
    site = Site(settings, running(settings.state_file))
    found = [one for check in CHECKS for one in await _carried_out(check, site)]
    try:
        address = bus_address(nats_url, settings)
        async with connected(address) as client:
            found.append(Finding("bus", "ok", f"the bus answers at {_shown(client)}"))
            site = Site(settings, site.up, client)
            for check in BUS_CHECKS:
                found += await _carried_out(check, site)
    except NotRunning as error:
        found.append(Finding("bus", "fail", str(error), "start it with `callbus up`, or name another with --nats"))
    return found


async def _carried_out(check: Check, site: Site) -> list[Finding]:
    """A check that cannot be carried out is a finding, too."""
    name = check.__name__.removeprefix("check_")
    try:
        return await check(site)
    except CliError as error:
        return [Finding(name, "fail", str(error), "look at that service's log in var/log")]
    except nats.errors.Error as error:
        return [Finding(name, "fail", explained(error), "look at var/log/nats-server.log")]


def show(console: Console, finding: Finding) -> None:
    """One line, and its remedy below."""
    sign, style = {"ok": ("✔", "green"), "warn": ("!", "yellow"), "fail": ("✘", "red")}[finding.state]
    console.print(
        Text(f"{sign} ", style).append(f"{finding.check:15}", "bold").append(finding.text, ""), soft_wrap=True
    )
    if finding.remedy:
        console.print(Text(f"{'':17}→ {finding.remedy}", "dim"), soft_wrap=True)


def _shown(client: Client) -> str:
    url = client.connected_url
    return f"{url.hostname}:{url.port}" if url is not None else "its address"


# -- this machine -------------------------------------------------------------------------------------------------


async def check_processes(site: Site) -> list[Finding]:
    """What `callbus up` started here is alive."""
    if site.up is None:
        return [Finding("processes", "warn", "no `callbus up` runs here", "start it, if it is to run on this machine")]
    dead = sorted(name for name, identity in site.up.processes.items() if identity.process() is None)
    if dead:
        return [
            Finding(
                "processes", "fail", f"not alive: {', '.join(dead)}",
                f"`callbus up` starts them again; if that does not last, read {site.settings.log_dir}/{dead[0]}.log",
            )
        ]  # fmt: skip
    if not site.up.ready:
        return [Finding("processes", "warn", "`callbus up` is still starting", "try again in a moment")]
    return [Finding("processes", "ok", f"{len(site.up.processes)} processes of `callbus up` are alive")]


async def check_health(site: Site) -> list[Finding]:
    """Each service's `/readyz`."""
    if site.up is None:
        return []
    timeout = aiohttp.ClientTimeout(total=HEALTH_TIMEOUT_S)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        ports = site.up.health_ports
        said = await asyncio.gather(*(_unready(session, name, port) for name, port in ports.items()))
    problems = {name: why for name, why in zip(ports, said, strict=True) if why}
    if not problems:
        return [Finding("health", "ok", f"{len(ports)} services say that they are ready")]
    log = site.settings.log_dir
    return [Finding("health", "fail", f"{name}: {why}", f"read {log}/{name}.log") for name, why in problems.items()]


async def _unready(session: aiohttp.ClientSession, name: str, port: int) -> str:
    page = "healthz" if name == "rehearsal" else "readyz"  # it has nothing to become ready for
    try:
        async with session.get(f"http://127.0.0.1:{port}/{page}") as response:
            body = (await response.text("utf-8", "replace"))[:300]
            return "" if response.status == 200 else f"not ready: {body}"
    except (aiohttp.ClientError, TimeoutError) as error:
        return f"its health page at port {port} does not answer ({str(error) or type(error).__name__})"


# -- the bus --------------------------------------------------------------------------------------------------------


async def check_streams(site: Site) -> list[Finding]:
    """The event stream and the KV buckets."""
    js = site.client.jetstream()
    missing = []
    try:
        kept = (await js.stream_info(subjects.EVENTS_STREAM)).state.messages
    except NotFoundError:
        missing.append(f"stream {subjects.EVENTS_STREAM}")
    for name in (subjects.KV_CALLS, subjects.KV_CONFIG, subjects.KV_SLOTS, subjects.KV_SPEND):
        try:
            await js.key_value(name)
        except BucketNotFoundError:
            missing.append(f"bucket {name}")
    if missing:
        return [Finding("streams", "fail", f"missing: {', '.join(missing)}", "any service makes them as it starts")]
    return [Finding("streams", "ok", f"stream and buckets are there, with {kept} events")]


async def check_heartbeats(site: Site) -> list[Finding]:
    """Workers and gateways are alive, and have room for calls."""
    workers: dict[str, WorkerHeartbeat] = {}
    gateways: dict[str, GatewayHeartbeat] = {}

    async def heard(message: Msg) -> None:
        try:
            if message.subject.startswith(subjects.worker_heartbeat("x")[:-1]):
                worker = WorkerHeartbeat.model_validate_json(message.data)
                workers[worker.wk] = worker
            else:
                gateway = GatewayHeartbeat.model_validate_json(message.data)
                gateways[gateway.gw] = gateway
        except ValidationError:
            pass  # of something newer; what it is, its own log says

    subscriptions = [
        await site.client.subscribe(subject, cb=heard)
        for subject in (subjects.WORKER_HEARTBEATS, subjects.GATEWAY_HEARTBEATS)
    ]
    await asyncio.sleep(HEARD_S)
    for subscription in subscriptions:
        await subscription.unsubscribe()
    # A person who took a call over stands here as a worker without room (`TakeOver`).
    able = {name: worker for name, worker in workers.items() if worker.capacity}
    return [_alive("workers", able), _alive("gateways", gateways)]


def _alive(what: str, found: dict[str, WorkerHeartbeat] | dict[str, GatewayHeartbeat]) -> Finding:
    one = what.removesuffix("s")
    if not found:
        return Finding(what, "fail", f"no {one} sends heartbeats", f"start one, or read the log of the {one}s")
    calls, capacity = sum(h.calls for h in found.values()), sum(h.capacity for h in found.values())
    draining = sum(h.draining for h in found.values())
    text = f"{len(found)} {one if len(found) == 1 else what}, {calls} of {capacity} calls" + (
        f", {draining} draining" if draining else ""
    )
    if draining == len(found):
        return Finding(what, "fail", f"{text}: no new call is taken", "start another one")
    if calls >= capacity:
        return Finding(what, "warn", f"{text}: new calls are refused", "start another one, or raise its capacity")
    return Finding(what, "ok", text)


async def check_trunks(site: Site) -> list[Finding]:
    """Registrations of the SIP gateway."""
    try:
        every = await trunks(site.client)
    except CliError as error:  # without SIP at all (Twilio alone) that is right; a dead gateway shows above
        return [Finding("trunks", "warn", str(error), "start sip_gateway, if calls are to come over SIP")]
    if not every:
        return [
            Finding(
                "trunks", "warn", "no SIP trunk is configured: calls come from SIP_ALLOWED_SOURCES, none can be placed",
                "set SIP_SERVER, SIP_USERNAME and SIP_PASSWORD, or SIP_TRUNKS_FILE",
            )
        ]  # fmt: skip
    made = []
    for trunk in every:
        if not trunk.registers and trunk.usable:
            made.append(Finding("trunks", "ok", f"{trunk.name} works without a registration"))
        elif trunk.usable:
            made.append(Finding("trunks", "ok", trunk.shown))
        else:
            remedy = "check server, user and password of the trunk; read var/log/sip_gateway.log"
            made.append(Finding("trunks", "fail", trunk.shown, remedy))
    return made


async def check_configuration(site: Site) -> list[Finding]:
    """Agents and routes are published, routes lead to agents, tools are offered."""
    documents, unreadable = await _published(site.client)
    agents = {document.key: document for document in documents if isinstance(document, AgentConfig)}
    routes = [document for document in documents if isinstance(document, RouteConfig)]
    made = [
        Finding("configuration", "fail", f"the document {key} cannot be read", "`callbus apply` it again")
        for key in unreadable
    ]
    if not agents or not routes:
        what = " and ".join(name for name, there in (("agent", agents), ("route", routes)) if not there)
        remedy = "publish them: `callbus apply deploy/config`"
        return [*made, Finding("configuration", "fail", f"no {what} is published", remedy)]
    for route in routes:
        if f"agent.{route.org}.{route.agent}" not in agents:
            text = f"route {route.name} leads to agent {route.agent}, which is not published: its calls are refused"
            made.append(Finding("configuration", "fail", text, "`callbus apply` the agent, or change the route"))
    offered = await offered_tools(site.client)
    for agent in agents.values():
        if missing := sorted(missing_tools(agent, offered)):
            text = f"agent {agent.name} has tools that no service offers: {', '.join(missing)}"
            made.append(Finding("configuration", "warn", text, "start the service of these tools, or take them out"))
    made += age_findings(documents)
    return made or [Finding("configuration", "ok", f"{len(agents)} agents and {len(routes)} routes fit together")]


async def check_models(site: Site) -> list[Finding]:
    """Models of published agents last, and their vendors' keys are there."""
    agents = [document for document in (await _published(site.client))[0] if isinstance(document, AgentConfig)]
    workers = worker_settings(site.settings)
    models = load_models(workers.models_file)
    told = endings(agents, Defaults.of(workers, models), models, today())
    unknown = []
    if not site.rehearses:  # what rehearses needs no keys
        told += missing_keys(agents, workers)
        unknown = await unknown_models(agents, workers)
    return [*(Finding("models", *each) for each in told), *unknown] or [
        Finding("models", "ok", "the models of all agents last")
    ]


async def check_spending(site: Site) -> list[Finding]:
    """Organisations have something left of today's budget."""
    made = []
    for one in await spent_today(site.client):
        limit, spent = one["max_usd_per_day"], f"{one['org']} spent {one['usd']:.2f} USD today (UTC)"
        if limit is None:
            made.append(Finding("spending", "ok", spent))
        elif one["usd"] < limit:
            made.append(Finding("spending", "ok", f"{spent}, of {limit:g}"))
        else:
            made.append(
                Finding("spending", "warn", f"{spent}, its budget of {limit:g}: new calls are refused",
                        "raise max_usd_per_day of the organisation, or wait for midnight UTC")
            )  # fmt: skip
    return made


async def _published(client: Client) -> tuple[list[ConfigDocument], list[str]]:
    """The documents in KV `config`, and the keys of those that cannot be read."""
    decoder = config_decoder()
    documents: list[ConfigDocument] = []
    unreadable: list[str] = []
    keys = await keys_of(client, subjects.KV_CONFIG)
    if not keys:
        return documents, unreadable
    store = await client.jetstream().key_value(subjects.KV_CONFIG)
    for key in keys:
        try:
            value = (await store.get(key)).value or b""
        except KeyNotFoundError:
            continue  # removed in between
        document = decoder.decode(value)
        if document is not None:
            documents.append(document)
        elif decoder.counters["malformed"]:  # another kind is a newer version's, and no mistake
            decoder.counters["malformed"] = 0
            unreadable.append(key)
    return documents, unreadable


async def check_recorder(site: Site) -> list[Finding]:
    """A recorder runs, if anybody's calls are to be recorded."""
    return await recorder_findings(site, (await _published(site.client))[0])


async def check_stores(site: Site) -> list[Finding]:
    """The stores answer, so that conversations and orders are kept."""
    made = []
    for service, verb in ((TRANSCRIPT_STORE, "list"), (CATALOG_TOOLS, "orders")):
        try:
            await query(site.client, service, verb, limit=1)
        except CliError as error:
            remedy = "its events wait for it 7 days; start it, or read its log"
            made.append(Finding("stores", "fail", str(error), remedy))
    return made or [Finding("stores", "ok", "conversations and orders are stored")]


CHECKS: tuple[Check, ...] = (
    check_processes,
    check_health,
    check_ports,
    check_disk,
    check_object_store,
    check_ntp,
    check_model,
)
BUS_CHECKS: tuple[Check, ...] = (
    check_streams,
    check_clock,
    check_heartbeats,
    check_trunks,
    check_configuration,
    check_models,
    check_spending,
    check_recorder,
    check_stores,
)
