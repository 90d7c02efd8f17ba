"""RTP sockets: one per call, even ports, and a closed call's port is not given away while stragglers come."""

from __future__ import annotations

import asyncio
import socket

DRAIN_S = 2.0


class NoRtpPort(OSError):
    """Every port of the range is in use or draining."""


class PortPool:
    """Gives out bound, non-blocking UDP sockets; `release` keeps the port for `DRAIN_S` (livekit/sip does so)."""

    def __init__(self, ports: tuple[int, int] | None) -> None:
        self._range = ports
        self._next = ports[0] + ports[0] % 2 if ports else 0
        self._draining: dict[socket.socket, asyncio.TimerHandle] = {}

    @property
    def draining(self) -> int:
        """Ports of ended calls that are not free again yet."""
        return len(self._draining)

    def acquire(self, host: str) -> socket.socket:
        """A socket on `host`.

        Raises:
            NoRtpPort: the range is used up.
        """
        if self._range is None:
            return _bind(host, 0)
        first, last = self._range
        first += first % 2
        for _ in range(first, last + 1, 2):
            port = self._next
            self._next = port + 2 if port + 2 <= last else first
            try:
                return _bind(host, port)
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


def _bind(host: str, port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
    try:
        sock.setblocking(False)
        sock.bind((host, port))
    except OSError:
        sock.close()
        raise
    return sock
