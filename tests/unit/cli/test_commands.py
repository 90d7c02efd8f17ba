"""Commands as a person types them, and what they say when something is missing."""

import asyncio
import json
import os
import re
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg
from typer.testing import CliRunner

from cli import __main__ as cli_main, apply as publishing
from cli.apply import Applied, ConfigRefused, read_config
from cli.bus import connected, query
from cli.checkout import ROOT
from cli.config_files import read_files
from cli.demo.run import remove_leftovers
from cli.doctor import BUS_CHECKS, CHECKS
from cli.errors import CliError, NotRunning
from cli.exit_codes import ExitCode
from cli.main import app
from cli.published import publish_missing
from cli.settings import CliSettings
from cli.tap import call_meant
from libs.contracts.agent import AgentConfig
from libs.contracts.wire import config_decoder
from libs.runtime.streams import provision
from services.sip_gateway.settings import LOCAL_NETWORKS
from tests.support.nats import nats_binary, nats_server

COMMANDS = [
    "up",
    "down",
    "doctor",
    "demo",
    "apply",
    "call",
    "calls",
    "tap",
    "trace",
    "conversations",
    "show",
    "play",
    "orders",
]
LIVE = ["accept", "reject", "hangup", "transfer", "dtmf", "hold", "mute", "unmute", "record", "say"]


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> CliRunner:
    monkeypatch.setenv("CALLBUS_VAR", str(tmp_path))
    monkeypatch.delenv("NATS_URL", raising=False)
    return CliRunner()


@pytest.mark.parametrize("command", [*COMMANDS, *LIVE])
def test_every_command_explains_itself_with_an_example(cli: CliRunner, command: str) -> None:
    result = cli.invoke(app, [command, "--help"], env={"COLUMNS": "120"})
    assert result.exit_code == 0
    assert f"callbus {command}" in result.output.split("Example")[-1]


def test_the_help_groups_all_commands(cli: CliRunner) -> None:
    shown = cli.invoke(app, ["--help"], env={"COLUMNS": "120"}).output
    panels = re.findall(r"─ (\S[^─]*?) ─", shown)
    assert panels == ["Options", "Operation", "Configuration", "Calls", "A live call"]
    assert [name for name in (*COMMANDS, *LIVE, "catalog") if f"│ {name} " not in shown] == []


@pytest.mark.parametrize(
    "command", [["calls"], ["tap", "last"], ["trace"], ["hangup"], ["conversations"], ["show"], ["orders"]]
)
def test_when_nothing_runs_one_sentence_says_what_to_do(cli: CliRunner, command: list[str]) -> None:
    result = cli.invoke(app, command)
    assert result.exit_code == 3
    assert result.stderr == "callbus is not running here: start it with `callbus up`\n"


def test_a_bus_that_does_not_answer_is_named(cli: CliRunner) -> None:
    result = cli.invoke(app, ["calls", "--nats", "nats://127.0.0.1:1"])
    assert result.exit_code == 3
    assert "nothing answers at nats://127.0.0.1:1" in result.stderr


@pytest.mark.parametrize(
    ("command", "code", "said"),
    [
        (["dtmf", "[/x]"], 2, "DIGITS '[/x]': up to 32 of 0-9, A-D, * and # are allowed"),
        (["dtmf", "last"], 2, "DIGITS is missing: it follows `last`"),
        (["transfer", "last"], 2, "TARGET is missing: it follows `last`"),
        (["say", "last"], 2, "TEXT is missing: it follows `last`"),
        (["show", "01J", "--failed"], 2, "--failed looks for the last call that failed: leave the id out, or --failed"),
        (["show", "a.b"], 1, "'a.b' is not a call id: `callbus conversations` and `callbus calls` list them"),
        (["play", ""], 1, "'' is not a call id: `callbus conversations` and `callbus calls` list them"),
        (["conversations", "--limit", "501"], 2, "--limit"),
    ],
)
def test_what_cannot_be_meant_is_told_without_a_bus(cli: CliRunner, command: list[str], code: int, said: str) -> None:
    result = cli.invoke(app, command, env={"COLUMNS": "160"})
    assert (result.exit_code, said in result.stderr) == (code, True)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_what_an_encoding_lacks_is_a_question_mark(encoding: str, tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONIOENCODING": encoding, "CALLBUS_VAR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-m", "cli", "apply", "→Müller.yaml"], env=environment, capture_output=True, check=False
    )
    assert done.stderr.decode(encoding) in {"?M?ller.yaml does not exist\n", "?Müller.yaml does not exist\n"}


def test_mistakes_in_files_end_with_code_1_before_anything_is_asked_of_the_bus(cli: CliRunner, tmp_path: Path) -> None:
    result = cli.invoke(app, ["apply", str(tmp_path / "none.yaml")])
    assert result.exit_code == 1
    assert result.stderr == f"{tmp_path / 'none.yaml'} does not exist\n"


def test_a_mistake_in_the_environment_is_named(cli: CliRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIP_LISTEN_PORT", "sip")
    result = cli.invoke(app, ["down"])
    assert result.exit_code == 1
    assert result.stderr.startswith("the environment or .env has a mistake: SIP_LISTEN_PORT: Input should be")


def test_down_without_up_is_no_error(cli: CliRunner) -> None:
    result = cli.invoke(app, ["down"])
    assert (result.exit_code, result.output) == (0, "callbus was not running here\n")


async def published(client: Client, key: str) -> object:
    store = await client.jetstream().key_value("config")
    return config_decoder().decode((await store.get(key)).value or b"")


async def test_apply_publishes_all_or_nothing_and_only_what_changed(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"

    def written(text: str) -> publishing.Reading:
        path.write_text(text, "utf-8")
        return read_files([path])

    agent = "kind: agent\nname: bestellung\nvoice: {voice}\n"
    route = "---\nkind: route\nname: r\nmatch: ['1']\nagent: {agent}\n"
    async with nats_server() as server, connected(server.url) as client:
        await provision(client.jetstream())
        both = written(agent.format(voice="marin") + route.format(agent="bestellung"))
        assert [one.verdict for one in await publishing.apply(client, both, dry_run=True)] == ["created", "created"]
        assert [one.verdict for one in await publishing.apply(client, both)] == ["created", "created"]
        assert [one.verdict for one in await publishing.apply(client, both)] == ["unchanged", "unchanged"]
        changed = written(agent.format(voice="cedar"))
        assert await publishing.apply(client, changed) == [Applied("agent", "bestellung", "changed")]
        # The route's agent is on the bus only; another route's is nowhere, and the agent beside it stays unpublished.
        await publishing.apply(client, written(route.format(agent="bestellung")))
        with pytest.raises(ConfigRefused, match=r"a\.yaml:8: route\.agent: there is no agent named 'nobody'"):
            await publishing.apply(client, written(agent.format(voice="ash") + route.format(agent="nobody")))
        stored = await published(client, "agent.default.bestellung")
        assert isinstance(stored, AgentConfig)
        assert stored.voice == "cedar"


async def test_the_last_call_is_asked_for_before_there_was_one() -> None:
    async with nats_server() as server, connected(server.url) as client:
        await provision(client.jetstream())
        with pytest.raises(CliError, match="there was no call yet"):
            await call_meant(client, "last")
        with pytest.raises(CliError, match="not a call id"):
            await call_meant(client, "a.b")


def test_a_directory_without_documents_is_said(tmp_path: Path) -> None:
    with pytest.raises(CliError, match="there is no document in these directories"):
        read_config([tmp_path])


@pytest.fixture
def bare_bus(tmp_path: Path) -> Iterator[str]:
    """A nats-server without JetStream, with a user."""
    ports = tmp_path / "ports"
    ports.mkdir()
    command = [
        nats_binary(),
        "-a",
        "127.0.0.1",
        "-p",
        "-1",
        "--ports_file_dir",
        str(ports),
        "--user",
        "u",
        "--pass",
        "p",
    ]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            while not (found := list(ports.glob("*.ports"))) or not found[0].read_text().strip():
                assert process.poll() is None
                time.sleep(0.02)
            (address,) = json.loads(found[0].read_text())["nats"]
            yield str(address).removeprefix("nats://")
        finally:
            process.terminate()


def test_a_bus_without_jetstream_is_one_sentence_for_every_command(
    cli: CliRunner, bare_bus: str, tmp_path: Path
) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("kind: agent\nname: a\n")
    for command in (["calls"], ["tap", "last"], ["tap", "all"], ["tap", "x"], ["apply", str(path)]):
        result = cli.invoke(app, [*command, "--nats", f"nats://u:p@{bare_bus}"])
        assert (command, result.exit_code) == (command, 1)
        assert result.stderr.startswith("this bus has no JetStream, which callbus needs"), command
        assert len(result.stderr.splitlines()) == 1


def test_a_wrong_password_is_named_as_such_and_not_shown(cli: CliRunner, bare_bus: str) -> None:
    result = cli.invoke(app, ["calls", "--nats", f"nats://u:secret@{bare_bus}"])
    assert result.exit_code == 3
    refused = f"the bus at nats://{bare_bus} refuses the user or the password: check --nats (NATS_URL)\n"
    cut_off = f"the bus at nats://{bare_bus} refuses us and hangs up: check user and password in --nats (NATS_URL)\n"
    assert result.stderr in {refused, cut_off}  # the server's reset may overtake its words


@pytest.mark.parametrize("command", [["calls"], ["show", "last"], ["hangup"]])
async def test_a_user_who_may_not_ask_is_told_so_and_not_that_nobody_answers(
    cli: CliRunner, command: list[str]
) -> None:
    async with nats_server() as server:
        address = ["--nats", server.url_of("recorder")]  # a service's, from its environment
        result = await asyncio.to_thread(cli.invoke, app, [*command, *address])
    assert result.exit_code == 1
    assert result.stderr.startswith("the bus does not let this user do it (permissions violation for ")
    assert result.stderr.endswith("): name another in --nats (NATS_URL)\n")


async def test_a_bus_whose_reset_overtakes_its_words_is_none_that_does_not_answer() -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'INFO {"server_id": "x", "version": "2.12.0", "max_payload": 1048576, "auth_required": true}\r\n')
        await reader.readline()
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(NotRunning, match=f"127.0.0.1:{port} refuses us and hangs up: check user and password"):
            async with connected(f"nats://u:secret@127.0.0.1:{port}"):
                pass


@pytest.mark.parametrize(
    ("address", "why"), [("nats://127.0.0.1:1", "Connection refused"), ("nats://nowhere.invalid", "")]
)
async def test_why_nothing_answers_is_told_in_words(address: str, why: str) -> None:
    with pytest.raises(NotRunning) as told:
        async with connected(address):
            pass
    said = str(told.value)
    assert said.startswith(f"nothing answers at {address} (")
    assert said.endswith("): check --nats (NATS_URL)")
    assert why in said
    assert "Errno" not in said


def test_a_directory_that_cannot_be_used_is_one_sentence(cli: CliRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CALLBUS_VAR", "/proc/nope")
    before = os.umask(0)
    try:
        for command in (["up"], ["up", "--detach", "--sip-port", "0"]):
            result = cli.invoke(app, command)
            assert (result.exit_code, result.stderr) == (1, "/proc/nope: No such file or directory\n")
    finally:
        os.umask(before)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has it")
async def test_output_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    async with nats_server() as server, connected(server.url) as client:
        await provision(client.jetstream())
        for option in (["--json"], []):
            with Path("/dev/full").open("w") as full:  # noqa: ASYNC230  a device
                process = await asyncio.create_subprocess_exec(
                    *[sys.executable, "-m", "cli.main", "calls", "--nats", server.url, *option],
                    stdout=full,
                    stderr=asyncio.subprocess.PIPE,
                    cwd=ROOT,
                )
                _, said = await process.communicate()
            assert (process.returncode, said) == (1, b"No space left on device\n")


def test_mistakes_in_files_are_told_without_a_bus(cli: CliRunner, tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("kind: agent\nname: a\ncolour: red\n---\nkind: route\nname: r\nmatch: [x]\nagent: a\n")
    for dry_run in ([], ["--dry-run"]):
        result = cli.invoke(app, ["apply", str(path), *dry_run])
        assert (result.exit_code, result.stderr) == (1, f"{path}:3: agent.colour: unknown field\n")


def test_a_dry_run_checks_files_without_a_bus(cli: CliRunner, tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("kind: route\nname: r\nmatch: []\nagent: a\n")
    result = cli.invoke(app, ["apply", "--dry-run", str(path)])
    assert result.exit_code == 0
    assert result.stdout == (
        f"warning: {path}:3: route.match: is empty, so that no call ever takes this route\n"
        "1 documents are valid; no callbus runs here to compare them with\n"
    )
    assert cli.invoke(app, ["apply", str(path)]).exit_code == 3


async def test_a_tool_that_no_service_offers_is_a_warning(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("kind: agent\nname: a\ntools: [order_add, order_ad]\n")
    reading = read_files([path])
    async with nats_server() as server, connected(server.url) as client:
        assert await publishing.tool_warnings(client, reading) == []  # nobody offers any: not started, perhaps

        async def answer(message: Msg) -> None:
            await message.respond(b'{"endpoints": [{"subject": "v1.*.tool.order_add"}, {"subject": "v1.rpc.x.y"}]}')

        await client.subscribe("$SRV.INFO", cb=answer)
        warnings = [str(warning) for warning in await publishing.tool_warnings(client, reading)]
    assert warnings == [f"{path}:1: agent.tools: no service on this bus offers 'order_ad'"]


async def test_a_request_is_measured_as_it_is_sent() -> None:
    async with nats_server() as server, connected(server.url) as client:
        with pytest.raises(
            CliError, match=r"too large for the bus: 12000\d\d bytes as a request, and it takes 1048576"
        ):
            await query(client, "catalog_tools", "import", csv='"' * 600_000)  # each becomes two characters


async def test_up_leaves_alone_what_others_published_and_follows_its_files_where_nobody_did(tmp_path: Path) -> None:
    path, record = tmp_path / "a.yaml", tmp_path / "run" / "published.json"

    def files(**voices: str) -> publishing.Reading:
        path.write_text("---\n".join(f"kind: agent\nname: {n}\nvoice: {v}\n" for n, v in voices.items()), "utf-8")
        return read_files([path])

    async def voices(client: Client) -> dict[str, str | None]:
        found = {name: await published(client, f"agent.default.{name}") for name in ("mine", "ours")}
        return {name: agent.voice for name, agent in found.items() if isinstance(agent, AgentConfig)}

    async with nats_server() as server, connected(server.url) as client:
        await provision(client.jetstream())
        assert await publish_missing(client, files(mine="marin", ours="marin"), record) == []
        assert await voices(client) == {"mine": "marin", "ours": "marin"}
        await publishing.apply(client, files(mine="ash"))
        left = await publish_missing(client, files(mine="marin", ours="cedar"), record)
        assert left == ["agent mine differs from deploy/config (applied from elsewhere): left as it is"]
        assert await voices(client) == {"mine": "ash", "ours": "cedar"}
        # The same in the files: theirs again, and followed from then on.
        assert await publish_missing(client, files(mine="ash", ours="cedar"), record) == []
        assert await publish_missing(client, files(mine="verse", ours="cedar"), record) == []
        assert await voices(client) == {"mine": "verse", "ours": "cedar"}
        record.unlink()  # nobody knows who published this
        assert len(await publish_missing(client, files(mine="marin", ours="cedar"), record)) == 1
        assert await voices(client) == {"mine": "verse", "ours": "cedar"}


async def test_a_route_to_an_agent_whose_document_is_broken_is_no_second_mistake(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("kind: agent\nname: a\ncolour: red\n---\nkind: route\nname: r\nmatch: [x]\nagent: a\n")
    async with nats_server() as server, connected(server.url) as client:
        await provision(client.jetstream())
        with pytest.raises(ConfigRefused) as refused:
            await publishing.apply(client, read_files([path]))
    assert str(refused.value) == f"{path}:3: agent.colour: unknown field"


def test_what_the_example_of_settings_names_is_read() -> None:
    used = (ROOT / ".env.example").read_text("utf-8")
    names = set(re.findall(r"^#?([A-Z_]+)=", used, re.MULTILINE))
    page = (ROOT / "docs" / "settings.md").read_text("utf-8")
    of_the_command = {name.upper() for name in CliSettings.model_fields}
    assert {name for name in names if f"`{name}`" not in page} - of_the_command == set()
    assert f"SIP_ALLOWED_SOURCES={LOCAL_NETWORKS}\n" in used
    assert {"OPENAI_TTS_VOICE", "ELEVENLABS_API_KEY"} <= names
    assert "CALLBUS_VAR" in names


def test_what_killed_demos_left_is_removed_after_a_day(tmp_path: Path) -> None:
    now = 1_800_000_000.0
    for name, age_s in (("callbus-demo-old", 90_000), ("callbus-demo-new", 3600), ("other-old", 90_000)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "log").write_text("")
        os.utime(tmp_path / name, (now - age_s, now - age_s))
    (tmp_path / "callbus-demo-link").symlink_to(tmp_path / "other-old")
    remove_leftovers(tmp_path, now)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["callbus-demo-link", "callbus-demo-new", "other-old"]


def test_ctrl_c_while_the_modules_load_is_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupted(ModuleType):
        def __getattr__(self, name: str) -> object:
            raise KeyboardInterrupt

    monkeypatch.setitem(sys.modules, "cli.main", Interrupted("cli.main"))
    with pytest.raises(SystemExit) as left:
        cli_main.main()
    assert left.value.code == ExitCode.INTERRUPTED


def test_every_command_to_a_live_call_stands_in_the_documentation() -> None:
    page = (ROOT / "docs" / "cli.md").read_text("utf-8")
    assert [name for name in (*LIVE, *COMMANDS[5:]) if f"callbus {name}" not in page] == []


def test_the_documentation_names_the_checks_of_the_doctor() -> None:
    page = (ROOT / "docs" / "cli.md").read_text("utf-8").partition("## Looking for mistakes")[2]
    names = {check.__name__.removeprefix("check_") for check in (*CHECKS, *BUS_CHECKS)}
    shown = {"ntp": "clock", "heartbeats": "workers"}
    assert [name for name in sorted(names) if f"`{shown.get(name, name)}`" not in page] == []
