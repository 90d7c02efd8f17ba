"""The sockets of one call of the softphone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

_PORT_TRIES = 64


class RtpEndpoint(asyncio.DatagramProtocol):
    """The RTP socket of one call; `rtcp` is the one on the port after it (RFC 3550 §11)."""

    def __init__(self) -> None:
        self.on_datagram: Callable[[bytes], None] | None = None
        self.rtcp: RtpEndpoint | None = None
        self._transport: asyncio.DatagramTransport | None = None

    @classmethod
    async def open(cls, host: str) -> tuple[RtpEndpoint, tuple[str, int]]:
        """Bind a free port and, for RTCP, its neighbour; gives the endpoint and its address. Raises OSError."""
        for _ in range(_PORT_TRIES):
            rtp, address = await cls._bind(host, 0)
            try:
                rtp.rtcp, _ = await cls._bind(host, address[1] + 1)
            except (OSError, OverflowError):  # taken, or beyond the last port
                rtp.close()
                continue
            return rtp, address
        raise OSError(f"no two neighbouring ports are free on {host}")

    @classmethod
    async def _bind(cls, host: str, port: int) -> tuple[RtpEndpoint, tuple[str, int]]:
        loop = asyncio.get_running_loop()
        transport, endpoint = await loop.create_datagram_endpoint(cls, (host, port))
        endpoint._transport = transport
        return endpoint, transport.get_extra_info("sockname")[:2]

    def datagram_received(self, data: bytes, addr: tuple[str | Any, int]) -> None:
        if self.on_datagram is not None:
            self.on_datagram(data)

    def error_received(self, exc: Exception) -> None:
        """A peer that closed its port: the call's signalling tells."""

    def send(self, data: bytes, destination: tuple[str, int]) -> None:
        if self._transport is not None:
            self._transport.sendto(data, destination)

    def close(self) -> None:
        if self.rtcp is not None:
            self.rtcp.close()
        if self._transport is not None:
            self._transport.close()
            self._transport = None
