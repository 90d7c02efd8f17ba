"""`callbus tap`: what a person sees, what a program reads, and what is heard."""

import asyncio
import io
import json
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import nats.errors
import numpy as np
import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg
from rich.console import Console

from cli.bus import connected
from cli.errors import CliError
from cli.follow import KindFilter, TapOptions, follow
from cli.hearing import PLAYERS, hearing, player
from cli.settings import CliSettings
from cli.tap_state import TapState
from libs.audio.wav import read_wav
from libs.contracts import events as ev, examples, subjects
from libs.contracts.commands import CommandReply, Listen
from libs.contracts.frame import AudioFrame, Codec, pack
from libs.contracts.heartbeat import CallEntry
from libs.contracts.live import PartialTranscript
from libs.contracts.termination import Reason, Termination
from libs.contracts.wire import leg_command_decoder
from libs.runtime.streams import bucket, provision
from tests.support.nats import nats_server
from tests.support.waiting import until

CALL = examples.CALL
EVENTS = {event.kind: event for event in examples.events()}  # type: ignore[attr-defined]


class LiveCall:
    """A call on the bus that grants leases."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.leases: list[Listen] = []
        self.leased = asyncio.Event()

    async def start(self) -> "LiveCall":
        await provision(self.client.jetstream())
        await self.client.subscribe(subjects.control(examples.ORG, CALL, "leg"), cb=self._command)
        for kind in ("call.offered", "call.claimed", "call.answered"):
            await self.publish(EVENTS[kind])
        return self

    async def publish(self, event: ev.CallEvent) -> None:
        await self.client.jetstream().publish(subjects.event(event.org, event.call, event.kind), event.to_json())  # type: ignore[attr-defined]

    async def partial(self, speaker: str, item: str, text: str) -> None:
        said = PartialTranscript(
            org=examples.ORG, call=CALL, epoch=1, at=datetime.now(UTC), speaker=speaker, item=item, text=text
        )
        await self.client.publish(subjects.live(examples.ORG, CALL, "partial"), said.to_json())

    async def frames(self, count: int, up: int, out: int, first: int = 0) -> None:
        def data(value: int) -> bytes:
            return np.full(160, value, "<i2").tobytes()

        for seq in range(first, first + count):
            for way, value in (("up", up), ("out", out)):
                subject = subjects.audio(examples.ORG, examples.GW, examples.WK, CALL, way)  # type: ignore[arg-type]
                frame = AudioFrame(Codec.PCM16_8000, 0, 1, seq, seq * 160, data(value))
                await self.client.publish(subject, pack(frame))
        await self.client.flush()

    async def end(self) -> None:
        await self.publish(EVENTS["call.ended"])

    async def _command(self, message: Msg) -> None:
        command = leg_command_decoder().decode(message.data)
        assert isinstance(command, Listen)
        self.leases.append(command)
        self.leased.set()
        if message.reply:
            await message.respond(CommandReply(ok=True, details={"rate_hz": 8000}).to_json())


def terminal(output: io.StringIO) -> Console:
    return Console(file=output, width=140, force_terminal=True, color_system=None)


async def tapped(url: str, options: TapOptions, console: Console | None = None) -> None:
    settings = CliSettings(_env_file=None)
    await follow(console or Console(file=io.StringIO()), settings, url, CALL, options)


async def test_programs_get_one_document_a_line_and_only_the_kinds_they_asked_for(
    capsys: pytest.CaptureFixture[str],
) -> None:
    async with nats_server() as server, connected(server.url) as client, asyncio.timeout(20):
        call = await LiveCall(client).start()
        for kind in ("caller.turn", "tool.called", "tool.returned", "call.ended"):
            await call.publish(EVENTS[kind])
        await tapped(server.url, TapOptions(as_json=True, kinds=("caller.*", "tool")))
        assert call.leases == []
    kinds = [json.loads(line)["kind"] for line in capsys.readouterr().out.splitlines()]
    assert kinds == ["caller.turn", "tool.called", "tool.returned"]


async def test_partial_transcripts_come_under_a_lease_that_is_given_back(capsys: pytest.CaptureFixture[str]) -> None:
    async with nats_server() as server, connected(server.url) as client, asyncio.timeout(20):
        call = await LiveCall(client).start()
        tap = asyncio.create_task(tapped(server.url, TapOptions(as_json=True, partials=True)))
        await call.leased.wait()
        await call.partial("caller", "i1", "Ich brauche")
        await client.flush()
        await call.end()
        await tap
        await client.flush()
    shown = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [one["text"] for one in shown if one["kind"] == "partial"] == ["Ich brauche"]
    first, *_, last = call.leases
    assert first.lease_s == 10
    assert first.by.startswith("tap-")
    assert last.lease_s < 0.1


async def test_the_end_of_a_live_calls_id_names_it(capsys: pytest.CaptureFixture[str]) -> None:
    async with nats_server() as server, connected(server.url) as client, asyncio.timeout(20):
        call = await LiveCall(client).start()
        entry = CallEntry(call=CALL, org=examples.ORG, gw="gw-1", wk=None, epoch=1, phase="talking", agent="a")
        await (await bucket(client.jetstream(), subjects.KV_CALLS)).put(CALL, entry.to_json())
        await call.end()
        options = TapOptions(as_json=True)
        await follow(Console(), CliSettings(_env_file=None), server.url, CALL[-6:].lower(), options)
    assert '"kind":"call.ended"' in capsys.readouterr().out


async def test_a_tap_ends_with_its_call_also_when_a_renewal_swallows_the_cancellation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    request, asked = Client.request, asyncio.Event()

    async def swallow(client: Client, subject: str, *arguments: object, **options: object) -> object:
        if not subject.endswith(".leg"):
            return await request(client, subject, *arguments, **options)  # type: ignore[arg-type]
        asked.set()
        with suppress(asyncio.CancelledError):  # as `asyncio.wait_for` may, up to Python 3.11
            await asyncio.sleep(20)
        raise nats.errors.NoRespondersError

    monkeypatch.setattr(Client, "request", swallow)
    async with nats_server() as server, connected(server.url) as client, asyncio.timeout(10):
        call = await LiveCall(client).start()
        tap = asyncio.create_task(tapped(server.url, TapOptions(as_json=True, partials=True)))
        await asked.wait()
        await call.end()
        await tap


async def test_on_a_terminal_what_is_being_said_stands_below_the_lines() -> None:
    output = io.StringIO()
    async with nats_server() as server, connected(server.url) as client, asyncio.timeout(20):
        call = await LiveCall(client).start()
        tap = asyncio.create_task(tapped(server.url, TapOptions(), terminal(output)))
        await call.leased.wait()
        await call.partial("caller", "i1", "Ich brauche zehn")
        while "Ich brauche zehn …" not in output.getvalue():  # noqa: ASYNC110  what another writes
            await asyncio.sleep(0.05)
        await call.publish(EVENTS["caller.turn"])
        await call.end()
        await tap
    shown = output.getvalue()
    assert "talking" in shown
    assert "Caller  Ich brauche zehn T-Stücke, 22 Millimeter." in shown
    assert "ended after 62.0 s" in shown


async def test_what_is_heard_is_in_the_file_the_caller_left_and_ctrl_c_leaves_it_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cli.listen.RENEW_S", 0.05)
    file = tmp_path / "call.wav"
    async with nats_server() as server, connected(server.url) as client, asyncio.timeout(20):
        call = await LiveCall(client).start()
        tap = asyncio.create_task(tapped(server.url, TapOptions(wav=file)))
        await call.leased.wait()
        await call.frames(60, up=1000, out=-2000)
        renewed = len(call.leases)
        await until(lambda: len(call.leases) > renewed + 2)  # who was answered since has heard all frames before
        while file.stat().st_size < 44 + 50 * 640:  # noqa: ASYNC110  what another writes
            await asyncio.sleep(0.02)
        assert read_wav(file.read_bytes()).duration_ms >= 1000  # it can be played meanwhile
        tap.cancel()
        with pytest.raises(asyncio.CancelledError):
            await tap
    wav = read_wav(file.read_bytes())
    assert (wav.channels, wav.rate_hz) == (2, 8000)
    assert 1200 <= wav.duration_ms <= 1300
    assert len(wav.pcm) == file.stat().st_size - 44
    samples = np.frombuffer(wav.pcm, "<i2").reshape(-1, 2)
    assert set(samples[:, 0]) == {0, 1000}
    assert set(samples[:, 1]) == {0, -2000}


async def test_what_is_heard_goes_to_a_player_at_the_rate_of_the_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    played = tmp_path / "played"
    script = tmp_path / "aplay"
    script.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/arguments\nexec /bin/cat > {played}\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    async with nats_server() as server, connected(server.url) as client, asyncio.timeout(20):
        call = await LiveCall(client).start()
        tap = asyncio.create_task(tapped(server.url, TapOptions(play=True)))
        await call.leased.wait()
        await call.frames(50, up=100, out=200)
        while not played.exists() or played.stat().st_size < 40 * 640:  # noqa: ASYNC110  what another writes
            await asyncio.sleep(0.02)
        await call.end()
        await tap
    assert "-r 8000" in (tmp_path / "arguments").read_text()
    assert set(np.frombuffer(played.read_bytes(), "<i2").reshape(-1, 2)[:, 1]) <= {0, 200}


def test_without_a_player_a_sentence_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CliError, match="--wav FILE"):
        player()
    assert all("{rate}" in " ".join(argv) for argv in PLAYERS)


async def test_an_empty_file_says_where_the_recording_is(tmp_path: Path) -> None:
    said: list[str] = []
    async with hearing(tmp_path / "late.wav", play=False, told=said.append):
        pass
    assert "`callbus play`" in said[0]


async def test_a_player_without_sound_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "aplay").write_text("#!/bin/sh\n")
    (tmp_path / "aplay").chmod(0o755)
    said: list[str] = []
    async with hearing(None, play=True, told=said.append):
        pass
    assert said == ["nothing was heard; of a call that is over `callbus play` has the recording, if there is one"]


async def test_a_file_is_replaced_only_by_something_that_was_heard(tmp_path: Path) -> None:
    file = tmp_path / "call.wav"
    frame = AudioFrame(Codec.PCM16_8000, 0, 1, 0, 0, b"\1\0" * 160)
    kept: list[bytes] = []
    for pieces in (100, 0, 5):
        async with hearing(file, play=False, told=lambda _: None) as heard:
            for number in range(pieces):
                heard.frame("up", frame)
                heard.frame("out", frame._replace(seq=number))
        kept.append(file.read_bytes())
    assert kept[1] == kept[0]
    assert read_wav(kept[0]).duration_ms >= 2000
    assert 100 <= read_wav(kept[2]).duration_ms < 200


def test_a_filter_takes_names_groups_and_patterns_and_refuses_what_no_kind_fits() -> None:
    kinds = KindFilter(("tool", "caller.*,call.ended"))
    assert [kind for kind in EVENTS if kind in kinds] == [
        "call.ended", "caller.spoke", "caller.turn", "tool.called", "tool.returned",
    ]  # fmt: skip
    assert "anything" in KindFilter(())
    with pytest.raises(CliError, match=r"fits 'calls'; there are: call\.offered"):
        KindFilter(("calls",))


async def test_all_calls_cannot_be_heard_at_once() -> None:
    with pytest.raises(CliError, match="follow one call"):
        await follow(Console(), CliSettings(_env_file=None), "nats://127.0.0.1:1", "all", TapOptions(play=True))


def state_of(*several: ev.Event | PartialTranscript) -> list[str]:
    state = TapState()
    for one in several:
        if isinstance(one, PartialTranscript):
            state.partial(one)
        else:
            state.event(one)
    return [line.plain for line in state.lines(EVENTS["call.answered"].at + timedelta(seconds=75))]


def saying(speaker: str, item: str, text: str) -> PartialTranscript:
    at = datetime.now(UTC)
    return PartialTranscript(org="o", call=CALL, epoch=1, at=at, speaker=speaker, item=item, text=text)


def test_the_panel_tells_who_talks_how_long_and_how_fast() -> None:
    begun = (EVENTS["call.offered"], EVENTS["call.claimed"], EVENTS["call.answered"])
    muted = EVENTS["call.muted"]
    head, agent, tools, latency = state_of(
        *begun, muted, EVENTS["tool.called"], EVENTS["latency.measured"], saying("agent", "i9", "Gern")
    )
    assert head == f"{CALL[-6:]} · talking · 1:15 · +493012345678 → bestellung · bestellung · s2b7c8 epoch 1 · muted"
    assert agent == "Agent   Gern …"
    assert tools == "  → order_add …"
    assert latency.endswith("last 470, median 470, worst 470 ms of 1")


def test_a_partial_that_comes_after_its_turn_is_not_shown() -> None:
    turn = EVENTS["caller.turn"]
    assert isinstance(turn, ev.CallerTurn)
    said = saying("caller", turn.item, "Ich brauche")
    assert "Caller" in "".join(state_of(said))
    assert "Caller" not in "".join(state_of(said, turn, said))


def test_the_end_leaves_nothing_open() -> None:
    end = EVENTS["call.ended"]
    assert isinstance(end, ev.CallEnded)
    assert end.termination == Termination.of(Reason.CALLER_HUNG_UP)
    (head,) = state_of(EVENTS["call.offered"], saying("agent", "i9", "Gern"), end)
    assert "ended" in head
