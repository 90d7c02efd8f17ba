"""A registrar that takes every registration; everything else it hands on to one far end, and back to the client.

It hands on datagrams as they are: no proxy, only a wire with a registrar at its end.
"""

from __future__ import annotations

import asyncio
import re

_COPIED = ("via", "from", "call-id", "cseq")


class Registrar(asyncio.DatagramProtocol):
    """`address` is where it listens."""

    def __init__(self, far_end: tuple[str, int] | None = None) -> None:
        self.registrations = 0
        self._far_end = far_end
        self._client: tuple[str, int] | None = None
        self.address = ("", 0)

    @classmethod
    async def open(cls, far_end: tuple[str, int] | None = None) -> Registrar:
        loop = asyncio.get_running_loop()
        transport, registrar = await loop.create_datagram_endpoint(lambda: cls(far_end), ("127.0.0.1", 0))
        registrar.address = transport.get_extra_info("sockname")
        registrar.transport = transport
        return registrar

    async def __aenter__(self) -> Registrar:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.transport.close()

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        head = data.decode("utf-8", "replace").split("\r\n\r\n")[0].split("\r\n")
        if not head[0].startswith("REGISTER "):
            self._hand_on(data, addr)
            return
        self._client = addr
        self.registrations += 1
        lines = [line for line in head[1:] if line.partition(":")[0].strip().lower() in _COPIED]
        to = next(line for line in head if line.lower().startswith("to:"))
        contact = next((line for line in head if line.lower().startswith("contact:")), "")
        lines += [to if "tag=" in to else f"{to};tag=registrar"]
        if contact:
            lines.append(re.sub(r";expires=\d+", "", contact) + ";expires=300")
        reply = "\r\n".join(["SIP/2.0 200 OK", *lines, "Expires: 300", "Content-Length: 0", "", ""])
        self.transport.sendto(reply.encode(), addr)

    def _hand_on(self, data: bytes, addr: tuple[str, int]) -> None:
        other = self._client if addr == self._far_end else self._far_end
        if other is not None:
            self.transport.sendto(data, other)
