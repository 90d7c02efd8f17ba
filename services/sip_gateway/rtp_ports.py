"""RTP sockets: a pair of ports per call, RTP on the even one and RTCP on the next (RFC 3550 §11).

A closed call's ports are not given away while stragglers come.
"""

from __future__ import annotations

import asyncio
import socket
from typing import TypeVar

DRAIN_S = 2.0
_TRIES = 64  # of the system's choice, until the neighbour of a free port is free, too


class RtpSocket(socket.socket):
    """The socket for RTP; its sibling for RTCP lives and closes with it."""

    rtcp: socket.socket

    def close(self) -> None:
        """Free both ports."""
        if hasattr(self, "rtcp"):
            self.rtcp.close()
        super().close()


class NoRtpPort(OSError):
    """Every port of the range is in use or draining."""


class PortPool:
    """Gives out bound, non-blocking pairs of UDP sockets; `release` keeps both for `DRAIN_S` (livekit/sip does so)."""

    def __init__(self, ports: tuple[int, int] | None) -> None:
        self._range = ports
        self._next = ports[0] + ports[0] % 2 if ports else 0
        self._draining: dict[socket.socket, asyncio.TimerHandle] = {}

    @property
    def draining(self) -> int:
        """Ports of ended calls that are not free again yet."""
        return len(self._draining)

    def acquire(self, host: str) -> RtpSocket:
        """A socket on `host`, with that for RTCP.

        Raises:
            NoRtpPort: the range is used up.
        """
        if self._range is None:
            return _any_pair(host)
        first, last = self._range
        first += first % 2
        for _ in range(first, last, 2):
            port = self._next
            self._next = port + 2 if port + 3 <= last else first
            try:
                return _bind_pair(host, port)
            except OSError:
                continue
        raise NoRtpPort(f"no free RTP port between {first} and {last}")

    def release(self, sock: socket.socket) -> None:
        """What still arrives for the ended call goes nowhere; the port is free after `DRAIN_S`."""
        self._draining[sock] = asyncio.get_running_loop().call_later(DRAIN_S, self._drained, sock)

    def _drained(self, sock: socket.socket) -> None:
        del self._draining[sock]
        sock.close()

    def close(self) -> None:
        """Free what is draining: the process ends."""
        for sock, timer in self._draining.items():
            timer.cancel()
            sock.close()
        self._draining.clear()


def _any_pair(host: str) -> RtpSocket:
    for _ in range(_TRIES):
        with _bind(socket.socket, host, 0) as probe:
            port = probe.getsockname()[1] & ~1
        try:
            return _bind_pair(host, port)
        except OSError:
            continue
    raise NoRtpPort(f"no free pair of ports was found on {host}")


def _bind_pair(host: str, port: int) -> RtpSocket:
    sock = _bind(RtpSocket, host, port)
    try:
        sock.rtcp = _bind(socket.socket, host, port + 1)
    except OSError:
        sock.close()
        raise
    return sock


Kind = TypeVar("Kind", bound=socket.socket)


def _bind(kind: type[Kind], host: str, port: int) -> Kind:
    sock = kind(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
    try:
        sock.setblocking(False)
        sock.bind((host, port))
    except OSError:
        sock.close()
        raise
    return sock
