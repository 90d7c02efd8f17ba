"""`callbus apply`: files to KV `config`, all or nothing, and only what changed."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import nats.errors
from nats.aio.client import Client
from nats.js.errors import KeyNotFoundError, NoKeysError
from nats.js.kv import KeyValue

from cli.config_files import Document, Problem, Reading, check_routes, read_files, yaml_files
from cli.errors import CliError
from libs.contracts import subjects
from libs.contracts.agent import AgentConfig
from libs.contracts.external_tools import McpTools
from libs.contracts.tool import OF_THE_SESSION
from libs.contracts.wire import config_decoder
from libs.runtime.streams import bucket

TOOL_DISCOVERY = "$SRV.INFO"
DISCOVERY_S = 0.3


class ConfigRefused(CliError):
    """The files have mistakes: one line each; nothing was published."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        super().__init__("\n".join(map(str, sorted(set(problems)))))


@dataclass(frozen=True, slots=True)
class Applied:
    """What became of one document: `created`, `changed` or `unchanged`."""

    kind: str
    name: str
    verdict: str


def read_config(paths: Iterable[Path]) -> Reading:
    """Read files and directories.

    Raises:
        CliError: a path does not exist, or there is no document in any.
        ConfigRefused: naming every mistake that the files alone show.
    """
    try:
        files = yaml_files(paths)
    except FileNotFoundError as error:
        raise CliError(str(error)) from error
    reading = read_files(files)
    if reading.problems:
        raise ConfigRefused(reading.problems)
    if not reading.placed:
        raise CliError("there is no document in " + (", ".join(map(str, files)) or "these directories"))
    return reading


async def apply(client: Client, reading: Reading, *, dry_run: bool = False) -> list[Applied]:
    """Publish what was read, unless something is wrong with it.

    Raises:
        ConfigRefused: naming every mistake.
    """
    store = await checked(client, reading)
    return [await _put(store, document, dry_run) for document in reading.documents]


async def checked(client: Client, reading: Reading) -> KeyValue:
    """The bucket that the documents go to, once their routes are known to lead somewhere.

    Raises:
        ConfigRefused: naming every mistake.
    """
    store = await bucket(client.jetstream(), subjects.KV_CONFIG)
    if not reading.problems:  # an agent whose own document is broken is not missing
        check_routes(reading, {key for key in await _keys(store) if key.startswith("agent.")})
    if reading.problems:
        raise ConfigRefused(reading.problems)
    return store


async def tool_warnings(client: Client, reading: Reading) -> list[Problem]:
    """Tools that agents name and nobody on the bus offers; none when nobody offers any (the tools are not started)."""
    offered = await offered_tools(client)
    return [
        Problem(placed.path, placed.line, f"agent.tools: no service on this bus offers {name!r}")
        for placed in reading.placed.values()
        if isinstance(placed.document, AgentConfig) and offered
        for name in missing_tools(placed.document, offered)
        if not _is_declared(name, placed.document.org, reading)
    ]


def missing_tools(agent: AgentConfig, offered: set[tuple[str, str]]) -> list[str]:
    """Tools of an agent that nobody offers its organisation; those that the worker carries out itself are there."""
    return [
        name
        for name in agent.tools
        if name not in OF_THE_SESSION and not {(agent.org, name), (subjects.ANY, name)} & offered
    ]


def _is_declared(name: str, org: str, reading: Reading) -> bool:
    """Whether these very files declare a tool."""
    if f"tool.{org}.{name}" in reading.placed:
        return True
    return any(
        isinstance(placed.document, McpTools)
        and placed.document.org == org
        and name.startswith(f"{placed.document.name}_")
        for placed in reading.placed.values()
    )


async def offered_tools(client: Client) -> set[tuple[str, str]]:
    """All tools that services on the bus tell of themselves (`$SRV.INFO`): whose (`*`: everybody's), and its name."""
    inbox, tools = client.new_inbox(), set[tuple[str, str]]()
    subscription = await client.subscribe(inbox)
    try:
        await client.publish(TOOL_DISCOVERY, b"", reply=inbox)
        while True:
            message = await subscription.next_msg(timeout=DISCOVERY_S)  # as long as answers come
            tools |= set(_tools_in(message.data))
    except nats.errors.TimeoutError:
        return tools
    finally:
        await subscription.unsubscribe()


def _tools_in(info: bytes) -> list[tuple[str, str]]:
    try:
        subjects_of = [str(endpoint["subject"]).split(".") for endpoint in json.loads(info)["endpoints"]]
    except (ValueError, KeyError, TypeError):  # another service, which says other things
        return []
    return [(parts[1], parts[3]) for parts in subjects_of if len(parts) == 4 and parts[2] == "tool"]


async def _put(store: KeyValue, document: Document, dry_run: bool) -> Applied:
    try:
        value = (await store.get(document.key)).value or b""
    except KeyNotFoundError:
        verdict = "created"
    else:  # compared as documents: the order of keys and a newer schema's defaults are no change
        verdict = "unchanged" if config_decoder().decode(value) == document else "changed"
    if verdict != "unchanged" and not dry_run:
        await put(store, document)
    return Applied(document.kind, document.name, verdict)


async def put(store: KeyValue, document: Document) -> bytes:
    """Publish a document; what was written.

    Raises:
        CliError: this bus takes less than ours.
    """
    value = document.to_json()
    try:
        await store.put(document.key, value)
    except nats.errors.MaxPayloadError:
        raise CliError(f"{document.kind} {document.name} is larger than the bus takes in one message") from None
    return value


async def _keys(store: KeyValue) -> list[str]:
    try:
        return await store.keys()
    except NoKeysError:
        return []
