"""Callers who interrupt, at random: `python -m tests.load.interruptions`. Says what the ear and the model noticed.

Starts nats-server, the SIP gateway, an AI worker and the rehearsal server as processes on this machine. Softphones call
an agent that talks at length, and cut in with recorded speech. Of each interruption three things are compared:

 - when the worker learnt of the speech (`caller.spoke`), and when the last RTP packet with the agent's voice was over;
 - how much of the sentence the RTP packets carried: frame by frame, against the complete sentence, which the rehearsal
   server knows. A cut within a pause of the speech cannot be heard: then this is a range;
 - how much of it the model was told that was heard (its truncation or deletion).

With `server` the model's server decides what an interruption is, with `local` the worker does and the voice is parked
first.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import aiohttp
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from cli.checkout import ROOT
from libs.audio.g711 import Law
from libs.audio.wav import read_wav
from libs.contracts.agent import AgentConfig, TurnTaking
from libs.contracts.config import RouteConfig
from libs.contracts.events import AgentTurn, CallerSpoke, CallOffered
from libs.softphone.call import PhoneCall
from libs.softphone.phone import Softphone
from tests.support.platform import EventFeed, Platform, platform
from tests.support.rehearsal import rehearsal_process

Samples = NDArray[np.int32]
MODES = ("server", "local")
SILENT_WITHIN_MS = 120.0
TOLD_WITHIN_MS = 20.0
CLIPS = ROOT / "services" / "rehearsal" / "clips" / "caller"
PER_MS = 8  # samples
FRAME = 20 * PER_MS
AUDIBLE = 40  # of 32768: what the codec makes of silence is below
SAME = 16
FADED = 0.75  # least correlation with the frame as it was
NEARLY_SILENT = 250  # may be inaudible when it is faded
SETTLED_S = 0.1  # after an event, until the packets that it tells of have arrived
PATIENCE_S = 8.0

SCENARIO = {
    "name": "talkative",
    "greeting": "Guten Tag, hier ist der Probebetrieb. "
    "Wenn Sie möchten, nenne ich Ihnen gern alle Größen der Reihe nach. "
    "Dazu gibt es Doppelnippel, Kappen und Verschraubungen.",
    "caller_default": "Einen Augenblick, bitte.",
    "default_answers": [
        "Ab hundert Stück bekommen Sie außerdem einen Rabatt, und ab fünfhundert Euro liefern wir frei Haus. "
        "Wir führen sie auch in anderen Größen, zum Löten und zum Pressen.",
        "Wenn Sie möchten, nenne ich Ihnen gern alle Größen der Reihe nach. "
        "Dazu gibt es Doppelnippel, Kappen und Verschraubungen.",
    ],
}


@dataclass(frozen=True, slots=True)
class Interruption:
    """One sentence of the agent that was cut off; between `least_ms` and `most_ms` of it was on the line."""

    mode: str
    item: str
    silent_after_ms: float | None  # None: the agent was silent when the caller began
    told_ms: float
    least_ms: float
    most_ms: float

    @property
    def error_ms(self) -> float:
        """By how much the model is wrong."""
        return max(0.0, self.least_ms - self.told_ms, self.told_ms - self.most_ms)

    @property
    def is_exact(self) -> bool:
        """The cut could be heard."""
        return self.least_ms == self.most_ms


def documents(more: Iterable[AgentConfig] = ()) -> list[AgentConfig | RouteConfig]:
    """An agent and a route for each way to decide what an interruption is, and for whoever else is wanted."""
    agents = [
        AgentConfig(name=mode, backend="realtime", greeting=SCENARIO["greeting"], turn_taking=TurnTaking(barge_in=mode))
        for mode in MODES
    ]
    agents += more
    return [*agents, *(RouteConfig(name=agent.name, match=(agent.name,), agent=agent.name) for agent in agents)]


@asynccontextmanager
async def talkative_platform(
    *scenarios: dict[str, Any], more: Iterable[AgentConfig] = ()
) -> AsyncIterator[tuple[Platform, str]]:
    """All processes, with further scenarios and agents, and where the rehearsal server's records are."""
    async with rehearsal_process(SCENARIO, *scenarios) as url:
        model = {"OPENAI_BASE_URL": f"{url}/v1", "OPENAI_API_KEY": "rehearsal"}
        async with platform(documents=documents(more), worker_environment=model) as running:
            yield running, url


class Caller:
    """One call: hears the agent begin, waits a random time, cuts in, and so on."""

    def __init__(self, feed: EventFeed, mode: str, number: str, chance: random.Random) -> None:
        self.mode = mode
        self._feed = feed
        self._number = number
        self._chance = chance
        self._clips = [read_wav(path.read_bytes()).pcm for path in sorted(CLIPS.glob("*.wav"))]
        self.clock_offset_s = time.time() - time.monotonic()
        self.phone_call: PhoneCall | None = None
        self.over_at = float("inf")

    async def talk(self, phone: Softphone, running: Platform, times: int) -> None:
        """Interrupt so many times."""
        self.phone_call = call = await phone.call(running.sip_uri(self.mode), from_user=self._number)
        for _ in range(2 * times):  # not every attempt meets the agent speaking
            if self._cuts() >= times:
                break
            with suppress(TimeoutError):  # the agent may wait for words by now
                await call.wait_for_speech(timeout_s=PATIENCE_S)
            await asyncio.sleep(self._chance.uniform(0.1, 2.5))  # the caller's patience
            await self._cut_in(call)
        self.over_at = time.time()  # what the end of the call cuts off is no interruption
        await call.hang_up()

    async def _cut_in(self, call: PhoneCall) -> None:
        clip = self._chance.choice(self._clips)
        length = 2 * PER_MS * round(self._chance.uniform(700, 1800))
        said = call.play(clip[:length])
        before = self._cuts()
        with suppress(TimeoutError):  # it was too short to be speech, or the agent had just ended
            async with asyncio.timeout(PATIENCE_S):
                while self._cuts() == before:  # noqa: ASYNC110  seldom enough not to disturb what is measured
                    await asyncio.sleep(0.1)
        await said.wait()

    def _cuts(self) -> int:
        return sum(turn.interrupted for turn in self.turns())

    @cached_property
    def call_id(self) -> str:
        """What callbus calls it."""
        return next(offered.call for offered in self._feed.of(CallOffered) if offered.caller == self._number)

    def turns(self) -> list[AgentTurn]:
        """What the agent said so far."""
        return self._feed.of(AgentTurn, self.call_id)

    def spoke_at(self) -> list[float]:
        """When the worker learnt that the caller spoke."""
        return [event.at.timestamp() for event in self._feed.of(CallerSpoke, self.call_id)]


async def judged(caller: Caller, url: str) -> list[Interruption]:
    """What became of each sentence that was cut off in a call."""
    items: dict[str, dict[str, Any]] = {}
    found: list[Interruption] = []
    async with aiohttp.ClientSession(url) as client:
        async with client.get("/rehearsal/sessions") as response:
            for session in (await response.json())["sessions"]:
                items |= {item["id"]: item | {"session": session["id"]} for item in session["items"]}
        before_at = 0.0
        for turn in caller.turns():
            at = turn.at.timestamp()
            if turn.interrupted and turn.item in items and at < caller.over_at:
                item = items[turn.item]
                async with client.get(f"/rehearsal/sessions/{item['session']}/items/{turn.item}.wav") as response:
                    whole = read_wav(await response.read()).pcm
                found.append(_judge(caller, turn.item, item, whole, before_at, at))
            before_at = at
    return found


def _judge(caller: Caller, name: str, item: dict[str, Any], whole: bytes, before_at: float, at: float) -> Interruption:
    call, offset_s = caller.phone_call, caller.clock_offset_s
    assert call is not None
    told_ms = 0.0 if item["deleted"] else item["truncated_at_ms"]
    told_ms = item["audio_ms"] if told_ms is None else float(told_ms)
    heard = np.frombuffer(call.heard, "<i2").astype(np.int32)
    arrived = {
        packet.position_samples: packet.arrived_at + offset_s
        for packet in call.heard_positions
        if before_at + SETTLED_S < packet.arrived_at + offset_s <= at + SETTLED_S
    }
    carried = _carried(heard, sorted(arrived), np.frombuffer(_on_the_line(whole), "<i2").astype(np.int32))
    silent_after_ms = None
    if carried.first_position is not None and carried.last_position is not None:
        began_at, over_at = arrived[carried.first_position], arrived[carried.last_position] + 0.02
        spoken = [when for when in caller.spoke_at() if min(began_at, over_at - 1) < when < over_at]
        # What was parked before may have gone on; a server's interruption is final.
        since = (spoken[-1] if caller.mode == "local" else spoken[0]) if spoken else None
        silent_after_ms = (over_at - since) * 1000 if since is not None else None
    return Interruption(caller.mode, name, silent_after_ms, told_ms, carried.least_ms, carried.most_ms)


def _on_the_line(pcm: bytes) -> bytes:
    return Law.PCMU.decode(Law.PCMU.encode(pcm))


@dataclass(slots=True)
class _Carried:
    least_ms: float = 0.0
    most_ms: float = 0.0
    first_position: int | None = None  # of the packets with the agent's voice
    last_position: int | None = None


def _carried(heard: Samples, positions: list[int], whole: Samples) -> _Carried:
    """How much of a sentence these packets carried. Gaps in between (a pause while parked, a stall) are skipped.

    Silence on the line may be a pause of the speech or a gap: the next frame that can be heard tells which.
    """
    frames = [whole[at : at + FRAME] for at in range(0, len(whole) - FRAME + 1, FRAME)]
    carried, sure, number = _Carried(), 0, 0
    for position in positions:
        got = heard[position : position + FRAME]
        if len(got) < FRAME:
            break
        if int(np.abs(got).max()) <= AUDIBLE:
            if number < len(frames) and int(np.abs(frames[number]).max()) <= NEARLY_SILENT:
                number += 1
            continue
        found = next((n for n in _likely(sure, number, len(frames)) if _is_same(got, frames[n])), None)
        if found is not None:
            sure = number = found + 1
            carried.last_position = position
            if carried.first_position is None:
                carried.first_position = position
    carried.least_ms, carried.most_ms = 20.0 * sure, 20.0 * number
    return carried


def _likely(sure: int, number: int, total: int) -> Iterable[int]:
    """The frames that may come next, the likeliest first."""
    return (n for n in dict.fromkeys((number, *range(number, sure - 1, -1), number + 1)) if n < total)


def _is_same(got: Samples, wanted: Samples) -> bool:
    """The frame as it was, or falling to silence, or rising from it."""
    if int(np.abs(got - wanted).max()) <= SAME:
        return True
    is_softer = int(np.abs(got).sum()) < int(np.abs(wanted).sum())
    return is_softer and float(np.corrcoef(got, wanted)[0, 1]) > FADED


async def measure(
    running: Platform, url: str, mode: str, *, calls: int, times: int, seed: int = 0
) -> list[Interruption]:
    """So many calls at once, each with so many interruptions."""
    chance = random.Random(seed)
    async with running.events() as feed, await Softphone.open() as phone:
        callers = [
            Caller(feed, mode, f"+4930{MODES.index(mode)}{seed:03}{number:03}", random.Random(chance.random()))
            for number in range(calls)
        ]
        async with asyncio.TaskGroup() as group:
            for caller in callers:
                group.create_task(caller.talk(phone, running, times))
        return [one for caller in callers for one in await judged(caller, url)]


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which this share of them lies; 0 of none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, round(share * (len(ordered) - 1)))] if ordered else 0.0


def report(results: Sequence[Interruption], console: Console, wanted: int = 1) -> bool:
    """A table; whether both bounds held, over as many interruptions as were wanted."""
    spreads = ("silent after ms: p50, p95, max", "model wrong by ms: p50, p95, max")
    table = Table("barge-in", "interruptions", "into speech", *spreads, "cut could be heard")
    passed = len(results) >= wanted and any(one.silent_after_ms is not None for one in results)
    for mode in MODES:
        those = [one for one in results if one.mode == mode]
        silent = [one.silent_after_ms for one in those if one.silent_after_ms is not None]
        wrong = [one.error_ms for one in those]
        exact = sum(one.is_exact for one in those)
        passed = passed and max(silent, default=0) <= SILENT_WITHIN_MS and max(wrong, default=0) <= TOLD_WITHIN_MS
        spread = [", ".join(f"{percentile(v, share):.0f}" for share in (0.5, 0.95, 1)) for v in (silent, wrong)]
        table.add_row(mode, str(len(those)), str(len(silent)), *spread, str(exact))
    console.print(table)
    for one in results:
        if one.error_ms > TOLD_WITHIN_MS or (one.silent_after_ms or 0) > SILENT_WITHIN_MS:
            console.print(f"[red]✘[/red] {one}")
    if len(results) < wanted:
        console.print(
            f"[red]✘[/red] {len(results)} interruptions came about, not {wanted}: run it again, or for longer"
        )
    return passed


async def main(arguments: argparse.Namespace) -> bool:
    """All of it."""
    results: list[Interruption] = []
    modes = [arguments.barge_in] if arguments.barge_in else MODES
    times = -(-arguments.interruptions // (arguments.calls * len(modes)))
    for mode in modes:
        async with talkative_platform() as (running, url):
            results += await measure(running, url, mode, calls=arguments.calls, times=times, seed=arguments.seed)
    return report(results, Console(), arguments.interruptions)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--interruptions", type=int, default=200, help="in all, as many for each way to decide")
    parser.add_argument("--barge-in", choices=MODES, help="only this way to decide")
    parser.add_argument("--calls", type=int, default=5, help="at the same time")
    parser.add_argument("--seed", type=int, default=1, help="of the callers' patience")
    sys.exit(0 if asyncio.run(main(parser.parse_args())) else 1)
