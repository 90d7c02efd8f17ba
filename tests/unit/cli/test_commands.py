"""Commands as a person types them, and what they say when something is missing."""

from pathlib import Path

import pytest
from nats.aio.client import Client
from typer.testing import CliRunner

from cli import apply as publishing
from cli.apply import Applied, ConfigRefused, read_config
from cli.bus import connected
from cli.config_files import read_files
from cli.errors import CliError
from cli.main import app
from cli.tap import call_meant
from libs.contracts.config import AgentConfig
from libs.contracts.wire import config_decoder
from libs.runtime.streams import provision
from tests.support.nats import nats_server

COMMANDS = ["up", "down", "demo", "apply", "calls", "tap", "conversations", "show", "orders"]


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> CliRunner:
    monkeypatch.setenv("CALLBUS_VAR", str(tmp_path))
    monkeypatch.delenv("NATS_URL", raising=False)
    return CliRunner()


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_with_an_example(cli: CliRunner, command: str) -> None:
    result = cli.invoke(app, [command, "--help"])
    assert result.exit_code == 0
    assert f"callbus {command}" in result.output.split("Example")[-1]


@pytest.mark.parametrize("command", [["calls"], ["tap", "last"], ["conversations"], ["show"], ["orders"]])
def test_when_nothing_runs_one_sentence_says_what_to_do(cli: CliRunner, command: list[str]) -> None:
    result = cli.invoke(app, command)
    assert result.exit_code == 3
    assert result.stderr == "callbus is not running here: start it with `callbus up`\n"


def test_a_bus_that_does_not_answer_is_named(cli: CliRunner) -> None:
    result = cli.invoke(app, ["calls", "--nats", "nats://127.0.0.1:1"])
    assert result.exit_code == 3
    assert "nothing answers at nats://127.0.0.1:1" in result.stderr


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
