"""`callbus call` against a gateway of the test: options, trunks, the transcript, hanging up, exit codes."""

import asyncio
import io
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from cli import up
from cli.bus import connected
from cli.call import CallOptions, callbus_running, is_dialable, message_text, place
from cli.checkout import ROOT
from cli.errors import CliError
from cli.exit_codes import ExitCode
from cli.main import app
from cli.ports import free_port
from cli.settings import CliSettings
from cli.state import ProcessIdentity, end, running
from libs.contracts import events as ev
from libs.contracts.commands import HangUp
from libs.contracts.originate import AgentChanges, OriginateReply
from libs.contracts.termination import Reason
from tests.support.nats import NatsServer, nats_server
from tests.unit.cli.fake_gateway import AGENT, CALL, FakeGateway

OPTIONS = CallOptions(to="+49 30 111", agent=AGENT.name, changes=AgentChanges(voice="cedar"), reg_timeout_s=5)


class Shown(io.StringIO):
    """What was printed; `until` waits for a text in it."""

    def __init__(self) -> None:
        super().__init__()
        self._written = asyncio.Event()

    def write(self, text: str) -> int:
        self._written.set()
        return super().write(text)

    async def until(self, text: str) -> None:
        async with asyncio.timeout(5):
            while text not in self.getvalue():
                self._written.clear()
                await self._written.wait()


class Line:
    """A call in a task, with what it printed."""

    def __init__(self, server: NatsServer, gateway: FakeGateway) -> None:
        self.server, self.gateway = server, gateway
        self.shown, self.said = Shown(), Shown()

    def call(self, options: CallOptions = OPTIONS) -> asyncio.Task[ExitCode]:
        console, said = Console(file=self.shown, width=200), Console(file=self.said, width=200)
        return asyncio.ensure_future(place(console, said, self.server.url, options))


@asynccontextmanager
async def line() -> AsyncIterator[Line]:
    async with nats_server() as server, connected(server.url) as client, asyncio.timeout(30):
        yield Line(server, await FakeGateway(client).start())


async def test_a_call_is_placed_followed_and_ends_with_its_code() -> None:
    async with line() as one:
        call = one.call()
        await one.gateway.asked.wait()
        await one.gateway.offered()
        await one.gateway.publish(ev.CallRinging, status=183, early_media=True)
        await one.gateway.publish(ev.CallAnswered, codec="PCMA", rate_hz=8000)
        await one.gateway.publish(ev.CallerTurn, item="i", text="Hallo?")
        await one.gateway.publish(ev.CallTransfer, state="ringing", target="+49302", mode="refer", status=180)
        await one.gateway.ended(Reason.CALLEE_HUNG_UP)
        assert await call is ExitCode.SUCCESS
        (wish,) = one.gateway.wishes
        assert (wish.to, wish.agent, wish.changes) == ("+49 30 111", "bestellung", AgentChanges(voice="cedar"))
        assert wish.request_id
    shown = [text[14:] for text in one.shown.getvalue().splitlines()]
    assert shown == [
        f"call {CALL} to +4930111 as +4930999, agent bestellung",
        "ringing (183, early media)",
        "answered, PCMA at 8000 Hz",
        "Callee  Hallo?",
        "transfer to +49302 by refer: ringing 180",
        "ended after 0.0 s: callee_hung_up (success)",
    ]


async def test_the_exit_code_is_the_terminations() -> None:
    async with line() as one:
        call = one.call()
        await one.gateway.asked.wait()
        await one.gateway.offered()
        await one.gateway.ended(Reason.CALLEE_BUSY)
        assert await call is ExitCode.BUSY


async def test_ctrl_c_hangs_up_and_waits_for_the_end() -> None:
    async with line() as one:
        call = one.call()
        await one.gateway.asked.wait()
        await one.gateway.offered()
        await one.gateway.publish(ev.CallAnswered, codec="PCMA", rate_hz=8000)
        await one.shown.until("answered")
        os.kill(os.getpid(), signal.SIGINT)
        assert await call is ExitCode.SUCCESS
        assert one.gateway.commands == [HangUp()]
    assert "hanging up …" in one.said.getvalue()


async def test_a_call_given_up_before_its_answer_is_no_success() -> None:
    async with line() as one:
        call = one.call()
        await one.gateway.asked.wait()
        await one.gateway.offered()
        await one.shown.until("call ")
        os.kill(os.getpid(), signal.SIGINT)
        assert await call is ExitCode.CANCELLED
        (command,) = one.gateway.commands
        assert command.reason is Reason.CALLER_CANCELLED


async def test_a_second_ctrl_c_leaves_at_once() -> None:
    async with line() as one:
        one.gateway.ends_when_told = False
        call = one.call()
        await one.gateway.asked.wait()
        await one.gateway.offered()
        await one.shown.until("call ")
        os.kill(os.getpid(), signal.SIGINT)
        await one.said.until("hanging up")
        os.kill(os.getpid(), signal.SIGINT)
        assert await call is ExitCode.INTERRUPTED
    assert f"the call may go on: `callbus hangup {CALL}` ends it" in one.said.getvalue()


async def test_a_trunk_that_is_still_registering_is_waited_for() -> None:
    async with line() as one:
        state = {"name": "provider", "server": "sip.example.net", "state": "registering"}
        one.gateway.trunks = [[state], [state], [state | {"state": "registered"}]]
        call = one.call()
        await one.gateway.asked.wait()
        await one.gateway.offered()
        await one.gateway.ended(Reason.CALLEE_NO_ANSWER)
        assert await call is ExitCode.NO_ANSWER
    assert one.said.getvalue().strip() == "waiting for the trunk: provider at sip.example.net is registering"


async def test_a_trunk_without_registration_needs_no_wait() -> None:
    async with line() as one:
        one.gateway.trunks = [[{"name": "pbx", "state": "ready", "registers": False}]]
        one.gateway.reply = OriginateReply(ok=False, error="+4930 may not be called", reason=Reason.NUMBER_NOT_ALLOWED)
        with pytest.raises(CliError, match=r"^the call was not placed: \+4930 may not be called$") as refused:
            await one.call()
        assert refused.value.code is ExitCode.NOT_ALLOWED


async def test_trunks_that_cannot_be_used_are_sentences_with_codes_of_their_own() -> None:
    async with line() as one:
        failed = {"name": "provider", "state": "failed", "problem": "403 Forbidden", "next_try_in_s": 60}
        cases = [
            (
                [failed],
                {},
                "within 0 s: provider has failed (403 Forbidden, next try in 60 s)",
                ExitCode.NOT_REGISTERED,
            ),
            ([], {}, "there is no SIP trunk to call through: set SIP_SERVER", ExitCode.TRUNK_FAILED),
            (
                [{"name": "pbx", "state": "unresolved", "registers": False}],
                {},
                "pbx is unresolved",
                ExitCode.NOT_REGISTERED,
            ),
            ([failed | {"organisation": "other"}], {}, "there is no SIP trunk", ExitCode.TRUNK_FAILED),
            ([failed], {"trunk": "other"}, "no trunk named 'other': there are provider", ExitCode.TRUNK_FAILED),
        ]
        for trunks, changed, said, code in cases:
            one.gateway.trunks = [trunks]
            options = CallOptions(to="030", agent=AGENT.name, changes=AgentChanges(), reg_timeout_s=0, **changed)
            with pytest.raises(CliError) as refused:
                await one.call(options)
            assert said in str(refused.value)
            assert refused.value.code is code
        assert one.gateway.wishes == []


async def test_an_unknown_agent_is_told_with_those_that_there_are() -> None:
    async with line() as one:
        with pytest.raises(CliError, match="no agent named 'nobody': there are bestellung") as refused:
            await one.call(CallOptions(to="030", agent="nobody", changes=AgentChanges()))
        assert refused.value.code is ExitCode.NO_AGENT


async def test_nobody_who_places_calls_is_told() -> None:
    async with line() as one:
        with pytest.raises(CliError, match="no twilio gateway places calls on this bus") as refused:
            await one.call(CallOptions(to="030", agent=AGENT.name, changes=AgentChanges(), entrance="twilio"))
        assert refused.value.code is ExitCode.TRUNK_FAILED


async def test_a_call_that_nobody_watches_any_more_is_hung_up() -> None:
    async with line() as one:
        words = ["call", "030 111", "--agent", "bestellung", "--json", "--nats", one.server.url]
        command = await asyncio.create_subprocess_exec(
            *[sys.executable, "-m", "cli.main", *words], stdout=asyncio.subprocess.PIPE, cwd=ROOT
        )
        await one.gateway.asked.wait()
        await one.gateway.offered()
        assert command.stdout is not None
        await command.stdout.readline()
        command.stdout._transport.close()  # type: ignore[attr-defined]  # as `| head -1` does
        await one.gateway.publish(ev.CallRinging)
        await command.wait()
        assert [command.kind for command in one.gateway.commands] == ["hang_up"]


async def test_from_the_shell_json_is_events_alone_and_the_code_goes_out() -> None:
    async with line() as one:
        words = ["call", "030 111", "--agent", "bestellung", "--json", "--nats", one.server.url]
        command = await asyncio.create_subprocess_exec(
            *[sys.executable, "-m", "cli.main", *words],
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        await one.gateway.asked.wait()
        await one.gateway.offered()
        await one.gateway.ended(Reason.CALLEE_DECLINED)
        out, err = await command.communicate()
        assert (command.returncode, err) == (ExitCode.DECLINED, b"")
        assert [json.loads(row)["kind"] for row in out.splitlines()] == ["call.offered", "call.ended"]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["030x"], 13, "'030x' is no phone number"),
        (["030", "--from", "me"], 13, "--from 'me' is no phone number"),
        (["030", "--backend", "pipe"], 2, "backend"),
        (["030", "--vad-threshold", "1.5"], 2, "less than or equal to 1"),
        (["030", "--silence-duration", "50"], 2, "greater than or equal to 100"),
        (["030", "--system-message", "@/nowhere.md"], 1, "/nowhere.md cannot be read: No such file"),
        (["030", "--system-message", " "], 1, "--system-message is empty"),
        (["030", "--agent", "a b"], 2, "--agent 'a b' is no name"),
    ],
)
def test_what_is_wrong_is_said_before_anything_starts(
    words: list[str], code: int, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CALLBUS_VAR", str(tmp_path / "var"))
    monkeypatch.delenv("NATS_URL", raising=False)
    result = CliRunner().invoke(app, ["call", "--agent", "bestellung", *words], env={"COLUMNS": "300"})
    assert (result.exit_code, said in result.stderr) == (code, True), result.stderr
    assert not (tmp_path / "var").exists()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("+49 30 123456", True),
        ("0049-30-123456", True),
        ("(030) 123 456", True),
        ("22", True),
        ("*21#", True),
        ("sip:lab@192.0.2.7:5070", True),
        ("sips:a@[2001:db8::1]", True),
        ("tel:+4930123", True),
        ("", False),
        ("+", False),
        ("sip:host", False),
        ("anna", False),
        ("030 123\r\nVia: x", False),
    ],
)
def test_numbers_and_addresses_are_told_from_anything_else(text: str, expected: bool) -> None:
    assert is_dialable(text) is expected


def test_the_system_message_is_text_or_a_file(tmp_path: Path) -> None:
    path = tmp_path / "prompt.md"
    path.write_text("Sei kurz.\n", "utf-8")
    assert [message_text(given) for given in (None, "Sei kurz.", f"@{path}")] == [None, "Sei kurz.", "Sei kurz.\n"]


def test_what_runs_already_is_used_and_left_alone(tmp_path: Path) -> None:
    settings = CliSettings(callbus_var=tmp_path / "var", _env_file=None)
    with callbus_running(settings, "nats://127.0.0.1:1", Console(quiet=True)) as address:
        assert address == "nats://127.0.0.1:1"
    assert not (tmp_path / "var").exists()


class OwnPlatform:
    """`callbus call` where nothing runs yet."""

    def __init__(self, settings: CliSettings) -> None:
        self.settings = settings
        self._commands: list[ProcessIdentity] = []

    async def call(self, *words: str) -> tuple[int | None, bytes]:
        command = await asyncio.create_subprocess_exec(
            *[sys.executable, "-m", "cli.main", "call", *words], stderr=asyncio.subprocess.PIPE, cwd=ROOT
        )
        self._commands.append(ProcessIdentity.of(command.pid))
        _, said = await command.communicate()
        return command.returncode, said

    def end(self) -> None:
        """The commands first: each ends what it started, or has not yet left behind what `down` could find."""
        end(self._commands, up.DOWN_GRACE_S)
        up.down(self.settings, Console(quiet=True))


@pytest.fixture
def own_platform(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[OwnPlatform]:
    """Nothing of it outlives the test, however that ends: its time limit cuts it off anywhere."""
    monkeypatch.setenv("CALLBUS_VAR", str(tmp_path / "var"))
    monkeypatch.setenv("SIP_LISTEN_HOST", "127.0.0.1")
    monkeypatch.setenv("SIP_LISTEN_PORT", str(free_port(transport="udp")))
    for name in ("NATS_URL", "OPENAI_API_KEY", "OPENAI_BASE_URL", "SIP_SERVER", "SIP_DOMAIN"):
        monkeypatch.setenv(name, "")
    platform = OwnPlatform(CliSettings())
    try:
        yield platform
    finally:
        platform.end()


@pytest.mark.timeout(180)  # the platform is started twice
async def test_what_is_started_for_a_call_is_ended_with_it_unless_it_is_to_be_kept(own_platform: OwnPlatform) -> None:
    words = ["030", "--agent", "nobody"]
    state = own_platform.settings.state_file
    for keep in ([], ["--keep-running"]):
        code, said = await own_platform.call(*words, *keep)
        assert code == ExitCode.NO_AGENT, said
        assert b"there is no agent named 'nobody': there are bestellung" in said
        left = running(state)
        assert (left is not None) == bool(keep), said
    # The next call uses what the first one kept, and leaves it alone.
    result = await asyncio.to_thread(CliRunner().invoke, app, ["call", *words])
    assert result.exit_code == ExitCode.NO_AGENT
    assert "starting it" not in result.stderr
    assert running(state) is not None
    assert await asyncio.to_thread(up.down, own_platform.settings, Console(quiet=True))


@pytest.mark.parametrize("option", ["--model", "--voice"])
def test_an_empty_name_is_no_other_model_or_voice(option: str) -> None:
    done = CliRunner().invoke(app, ["call", "030 111", "--agent", "a", option, ""])
    assert done.exit_code == ExitCode.USAGE
    assert f"{option[2:]}: String should have at least 1 character" in done.output
