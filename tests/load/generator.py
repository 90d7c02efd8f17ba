"""Makes the load of a bench phase, in a process of its own: `python -m tests.load.generator '{"calls": 10, ...}'`.

Calls are set up by the softphone; their RTP then comes from this module's own sockets, which the gateway latches on
(RFC 4961). The frames of each call leave every 20 ms on an absolute schedule, the phases of the calls spread in steps
of 1 ms. Replies are dated by the kernel (SO_TIMESTAMPNS, Linux), so that they can be read in bulk and the generator's
own wake-ups neither cost the machine nor falsify what is measured.

Two scripts:

- `echo`: bursts of 200 ms and silence of 200 ms by turns. Each frame of a burst carries its number in codewords that
  survive the way back bit by bit, and is recognised there.
- `turns`: bursts of 100 ms; the scripted agent answers the second silent frame after each with 400 ms of tone.
  From sending that frame to the first packet of the tone is what the platform adds to a turn.

Lines on stdout: `talking`, `quiet`, then one JSON object.
"""

from __future__ import annotations

import asyncio
import json
import math
import select
import socket
import struct
import sys
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import uvloop

from libs.audio.rtp import pack_header
from libs.softphone.phone import CallOptions, PhoneCall, Softphone

FRAME_NS = 20_000_000
STEP_NS = 1_000_000
STEPS = FRAME_NS // STEP_NS
SILENCE = b"\xff" * 160
LOUD = bytes([0x90, 0x10]) * 80
MAGIC = b"\x21\x43\x35\x2a"
STAMP_AT = 80  # behind what a cross-fade after concealment touches
HEADER_BYTES = 12
ECHO_BURST_FRAMES, ECHO_CYCLE_FRAMES = 10, 20
TURN_BURST_FRAMES, TURN_CYCLE_FRAMES = 5, 50
TURN_TRIGGER_FRAME = TURN_BURST_FRAMES + 1
WARM_UP_S = 1.5
TAIL_S = 0.6
SO_TIMESTAMPNS = getattr(socket, "SO_TIMESTAMPNS", 35)


def stamp(number: int) -> bytes:
    """A number in four codewords, none of which is another's twin (G.711 has two zeros)."""
    return MAGIC + bytes(0x10 + (number >> shift & 0x3F) for shift in (18, 12, 6, 0))


def read_stamp(payload: bytes) -> int | None:
    """The number, None when this payload carries none."""
    if payload[STAMP_AT : STAMP_AT + 4] != MAGIC:
        return None
    number = 0
    for code in payload[STAMP_AT + 4 : STAMP_AT + 8]:
        number = number << 6 | code - 0x10
    return number


@dataclass(slots=True)
class Stream:
    """One call's RTP, or the same packets to the bare echo."""

    script: str
    sock: socket.socket
    index: int
    frame: int = 0
    sent_at: dict[int, int] = field(default_factory=dict)
    stamped: int = 0
    returned: int = 0
    packets_sent: int = 0
    packets_received: int = 0
    latencies_ns: list[int] = field(default_factory=list)
    start_latencies_ns: list[int] = field(default_factory=list)
    jitters_ns: list[int] = field(default_factory=list)
    triggered_at: int = 0
    last: tuple[int, int, int] | None = None  # sequence number, timestamp, arrival
    lost: int = 0

    def send(self, measured: bool) -> None:
        """The next frame."""
        frame = self.frame
        self.frame += 1
        payload, marker = self._echo_frame(frame) if self.script == "echo" else self._turn_frame(frame)
        header = pack_header(0, frame & 0xFFFF, frame * 160 & 0xFFFFFFFF, 0x5EED + self.index, marker)
        now = time.time_ns()
        if measured:
            if self.script == "turns":
                if self._turn_position(frame) == TURN_TRIGGER_FRAME:
                    self.triggered_at = now
                    self.stamped += 1
            elif payload is not SILENCE:
                self.sent_at[frame] = now
                self.stamped += 1
        try:
            self.sock.send(header + payload)
            self.packets_sent += 1
        except OSError:  # an ICMP error of an earlier packet
            pass

    def _echo_frame(self, frame: int) -> tuple[bytes, bool]:
        at = (frame + 3 * self.index) % ECHO_CYCLE_FRAMES
        if at >= ECHO_BURST_FRAMES:
            return SILENCE, False
        return LOUD[:STAMP_AT] + stamp(frame) + LOUD[STAMP_AT + 8 :], at == 0

    def _turn_position(self, frame: int) -> int:
        return (frame + 7 * self.index) % TURN_CYCLE_FRAMES  # callers do not speak in chorus

    def _turn_frame(self, frame: int) -> tuple[bytes, bool]:
        at = self._turn_position(frame)
        return (LOUD if at < TURN_BURST_FRAMES else SILENCE), at == 0

    def receive(self) -> None:
        """All that the socket holds."""
        while True:
            try:
                data, ancillary, _, _ = self.sock.recvmsg(2048, 64)
            except BlockingIOError:
                return
            except OSError:
                continue
            arrived_at = time.time_ns()
            for level, kind, value in ancillary:
                if level == socket.SOL_SOCKET and kind == SO_TIMESTAMPNS:
                    seconds, nanoseconds = struct.unpack("qq", value)
                    arrived_at = seconds * 1_000_000_000 + nanoseconds
            self._take(data, arrived_at)

    def _take(self, data: bytes, arrived_at: int) -> None:
        self.packets_received += 1
        marker = bool(data[1] & 0x80)
        sequence, timestamp = struct.unpack_from("!HI", data, 2)
        payload = data[HEADER_BYTES:]
        if self.last is not None:
            step = (sequence - self.last[0]) & 0xFFFF
            if step < 0x8000:
                self.lost += step - 1
            talking = payload != SILENCE if self.script == "turns" else True
            if step == 1 and not marker and talking:
                due = ((timestamp - self.last[1]) & 0xFFFFFFFF) * 125_000
                self.jitters_ns.append(abs(arrived_at - self.last[2] - due))
        self.last = sequence, timestamp, arrived_at
        if self.script == "turns":
            if self.triggered_at and payload != SILENCE:
                self.start_latencies_ns.append(arrived_at - self.triggered_at)
                self.returned += 1
                self.triggered_at = 0
            return
        number = read_stamp(payload)
        sent_at = self.sent_at.pop(number, None) if number is not None else None
        if number is not None and sent_at is not None:
            self.returned += 1
            self.latencies_ns.append(arrived_at - sent_at)
            if (number + 3 * self.index) % ECHO_CYCLE_FRAMES == 0:
                self.start_latencies_ns.append(arrived_at - sent_at)


def say(line: str) -> None:
    print(line, flush=True)


def run_streams(streams: list[Stream], seconds: float) -> None:
    """Send and receive on schedule; runs in a thread of its own."""
    poll = select.epoll()
    by_number = {stream.sock.fileno(): stream for stream in streams}
    for number in by_number:
        poll.register(number, select.EPOLLIN)
    due: list[list[Stream]] = [[] for _ in range(STEPS)]
    for stream in streams:
        due[stream.index * STEPS // len(streams)].append(stream)
    steps = [step for step in range(STEPS) if due[step]]
    frames = math.ceil((WARM_UP_S + seconds) * 50)
    origin = time.monotonic_ns() + FRAME_NS
    talking_from = math.ceil(WARM_UP_S * 50)
    for frame in range(frames):
        if frame == talking_from:
            say("talking")
        for step in steps:
            wait_ns = origin + frame * FRAME_NS + step * STEP_NS - time.monotonic_ns()
            if wait_ns > 0:
                time.sleep(wait_ns / 1e9)
            for stream in due[step]:
                stream.send(frame >= talking_from)
            for number, _ in poll.poll(0):
                by_number[number].receive()
    say("quiet")
    until = time.monotonic() + TAIL_S
    while time.monotonic() < until:
        time.sleep(0.005)
        for number, _ in poll.poll(0):
            by_number[number].receive()
    poll.close()


def open_socket(remote: tuple[str, int]) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setblocking(False)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
    sock.connect(remote)
    return sock


def percentiles(values_ns: list[int]) -> dict[str, float | None]:
    if not values_ns:
        return {"p50": None, "p99": None, "n": 0}
    p50, p99 = np.percentile(np.array(values_ns) / 1e6, [50, 99])
    return {"p50": round(float(p50), 2), "p99": round(float(p99), 2), "n": len(values_ns)}


def summary(streams: list[Stream]) -> dict[str, Any]:
    """Of all streams together; times in milliseconds."""

    def joined(what: str) -> list[int]:
        return [value for stream in streams for value in getattr(stream, what)]

    return {
        "packets_sent": sum(stream.packets_sent for stream in streams),
        "packets_received": sum(stream.packets_received for stream in streams),
        "packets_lost": sum(stream.lost for stream in streams),
        "stamped": sum(stream.stamped for stream in streams),
        "returned": sum(stream.returned for stream in streams),
        "latency_ms": percentiles(joined("latencies_ns")),
        "start_latency_ms": percentiles(joined("start_latencies_ns")),
        "jitter_ms": percentiles(joined("jitters_ns")),
    }


async def place(phone: Softphone, uri: str, calls: int) -> list[PhoneCall]:
    """All calls, five at a time."""
    placed: list[PhoneCall] = []
    options = CallOptions(sends_silence=False, keeps_audio=False)
    while len(placed) < calls:
        wave = min(5, calls - len(placed))
        placed += await asyncio.gather(*(phone.call(uri, options=options) for _ in range(wave)))
    return placed


async def main(spec: dict[str, Any]) -> None:
    """Run what `spec` says: `calls`, `seconds`, `script`, and `uri` of an agent or `echo` (host, port)."""
    loop, calls, seconds = asyncio.get_running_loop(), int(spec["calls"]), float(spec["seconds"])
    if "echo" in spec:
        remotes = [(str(spec["echo"][0]), int(spec["echo"][1]))] * calls
        streams = [Stream("echo", open_socket(remote), index) for index, remote in enumerate(remotes)]
        await loop.run_in_executor(None, run_streams, streams, seconds)
    else:
        async with await Softphone.open() as phone:
            placed = await place(phone, spec["uri"], calls)
            agreed = [call.negotiated for call in placed if call.negotiated is not None]
            remotes = [(media.remote_host, media.remote_port) for media in agreed]
            streams = [Stream(spec["script"], open_socket(remote), index) for index, remote in enumerate(remotes)]
            await loop.run_in_executor(None, run_streams, streams, seconds)
    for stream in streams:
        stream.sock.close()
    say(json.dumps(summary(streams)))


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(json.loads(sys.argv[1])))
