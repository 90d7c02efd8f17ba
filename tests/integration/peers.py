"""Real SIP peers and other programs: found on PATH, skipped where they are missing, an error in CI."""

from __future__ import annotations

import os
import random
import shutil
import socket
from typing import NoReturn

import pytest

from cli import checkout
from cli.apply import read_config
from libs.audio.resample import Resampler
from libs.audio.wav import read_wav
from tests.support.platform import Document

PACKAGES = {
    "sipp": "sip-tester",
    "baresip": "baresip",
    "kamailio": "kamailio",
    "prometheus": "prometheus",
    "promtool": "prometheus",
    "prometheus-alertmanager": "prometheus-alertmanager",
    "amtool": "prometheus-alertmanager",
}
CLIPS = checkout.ROOT / "services" / "rehearsal" / "clips"


def require(program: str) -> str:
    """The program's path; skips the test without it, and fails it in CI."""
    found = shutil.which(program)
    if found is None:
        missing(program, PACKAGES[program])
    return found


def missing(what: str, package: str) -> NoReturn:
    """Skip the test that needs this; fail it in CI."""
    reason = f"{what} is not installed (Debian: apt install {package})"
    if os.environ.get("CI") == "true" or os.environ.get("CALLBUS_REQUIRE_PEERS") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


def sample_documents() -> list[Document]:
    """The agents and routes that callbus ships."""
    reading = read_config([checkout.CONFIG])
    assert not reading.problems
    return reading.documents


def speech_8k(name: str) -> bytes:
    """A clip of the rehearsal at telephone rate, 16-bit little-endian."""
    wav = read_wav((CLIPS / name).read_bytes())
    return Resampler(wav.rate_hz, 8000).process(wav.pcm) if wav.rate_hz != 8000 else wav.pcm


def free_udp_ports(count: int, step: int = 2) -> int:
    """The first of `count` even UDP ports in a row (RTP, RTCP beside it) that are free now.

    Peers bind them later, when a call comes: two that run at once get ranges of their own because they are drawn, below
    the ports that the system gives to others.
    """
    firsts = list(range(12_000, 32_000, step * count))
    random.shuffle(firsts)
    for first in firsts:
        sockets = []
        try:
            for port in range(first, first + count * step):
                sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
                sockets.append(sock)
                sock.bind(("127.0.0.1", port))
        except OSError:
            continue
        finally:
            for sock in sockets:
                sock.close()
        return first
    raise RuntimeError("no free range of UDP ports")
