"""A peer that says exactly what the test writes: a UDP socket, no core and no timers."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable

Headers = tuple[tuple[str, str], ...]


def sdp(port: int = 40000, payload_types: str = "8") -> str:
    return (
        "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n"
        f"m=audio {port} RTP/AVP {payload_types}\r\n"
    )


def header(message: str, name: str) -> str:
    found = re.search(rf"^{name}: (.*?)\r$", message, re.MULTILINE)
    assert found is not None, f"no {name} in {message}"
    return found[1]


class Raw(asyncio.DatagramProtocol):
    """`async with await Raw.open(gateway_port)`; `got` has every message, oldest first."""

    def __init__(self) -> None:
        self.got: list[str] = []
        self.gateway = ("127.0.0.1", 0)
        self._changed = asyncio.Event()

    @classmethod
    async def open(cls, gateway_port: int = 0) -> Raw:
        _, raw = await asyncio.get_running_loop().create_datagram_endpoint(cls, ("127.0.0.1", 0))
        raw.gateway = ("127.0.0.1", gateway_port)
        return raw

    def connection_made(self, transport) -> None:
        self.transport = transport
        self.port = transport.get_extra_info("sockname")[1]

    async def __aenter__(self) -> Raw:
        return self

    async def __aexit__(self, *_) -> None:
        self.transport.close()

    def datagram_received(self, data: bytes, addr) -> None:
        self.got.append(data.decode())
        self.gateway = addr
        self._changed.set()

    async def until(self, happened: Callable[[], object], limit_s: float = 5.0):
        async with asyncio.timeout(limit_s):
            while not (found := happened()):
                self._changed.clear()
                await self._changed.wait()
        return found

    async def message(self, start: str, number: int = 0) -> str:
        """The first (or a later) message that begins like this: a method, or `SIP/2.0 200`."""
        await self.until(lambda: sum(text.startswith(start) for text in self.got) > number)
        return [text for text in self.got if text.startswith(start)][number]

    async def final(self, cseq: str) -> str:
        """The final response to our request with this CSeq."""

        def found() -> str | None:
            return next((t for t in self.got if re.match(r"SIP/2.0 [2-6]", t) and header(t, "CSeq") == cseq), None)

        return await self.until(found)

    def send(self, start: str, headers: Headers, body: str = "") -> None:
        lines = [start, *(f"{name}: {value}" for name, value in headers)]
        lines += ["Content-Type: application/sdp"] if body.startswith("v=0") else []
        text = "\r\n".join([*lines, f"Content-Length: {len(body.encode())}"]) + "\r\n\r\n" + body
        self.transport.sendto(text.encode(), self.gateway)

    # -- as the called side -----------------------------------------------------------------------------------

    def reply(self, request: str, status: str, *, tag: str = "far", headers: Headers = (), body: str = "") -> None:
        to = header(request, "To")
        lines = [
            ("Via", header(request, "Via")), ("From", header(request, "From")),
            ("To", to if ";tag=" in to else f"{to};tag={tag}"), ("Call-ID", header(request, "Call-ID")),
            ("CSeq", header(request, "CSeq")), ("Contact", f"<sip:far@127.0.0.1:{self.port}>"),
        ]  # fmt: skip
        self.send(f"SIP/2.0 {status}", (*lines, *headers), body)

    def ask(self, invite: str, cseq: str, *, headers: Headers = (), body: str = "", tag: str = "far") -> None:
        """A request in the dialog of an INVITE that came."""
        target = header(invite, "Contact").strip("<>")
        lines = [
            ("Via", self._via(cseq)), ("Max-Forwards", "70"), ("From", f"{header(invite, 'To')};tag={tag}"),
            ("To", header(invite, "From")), ("Call-ID", header(invite, "Call-ID")), ("CSeq", cseq),
            ("Contact", f"<sip:far@127.0.0.1:{self.port}>"),
        ]  # fmt: skip
        self.send(f"{cseq.split()[1]} {target} SIP/2.0", (*lines, *headers), body)

    # -- as the calling side ----------------------------------------------------------------------------------

    def invite(self, call_id: str = "one", *, before: str = "") -> None:
        """A call to `bestellung`; `before` stands before its start line."""
        self.request("1 INVITE", call_id, body=sdp(), before=before)

    def request(
        self, cseq: str, call_id: str = "one", *, to_tag: str = "", headers: Headers = (), body: str = "",
        before: str = "",
    ) -> None:  # fmt: skip
        """One of ours, in the dialog that `to_tag` names or outside any."""
        own = f"sip:+4930123456@127.0.0.1:{self.port}"
        to = "<sip:bestellung@127.0.0.1>"
        lines = [
            ("Via", self._via(f"{call_id}{cseq}")), ("Max-Forwards", "70"), ("From", f"<{own}>;tag=ours"),
            ("To", f"{to};tag={to_tag}" if to_tag else to), ("Call-ID", call_id), ("CSeq", cseq),
            ("Contact", f"<{own}>"),
        ]  # fmt: skip
        self.send(f"{before}{cseq.split()[1]} sip:bestellung@127.0.0.1 SIP/2.0", (*lines, *headers), body)

    def _via(self, branch: str) -> str:
        return f"SIP/2.0/UDP 127.0.0.1:{self.port};branch=z9hG4bK{branch.replace(' ', '')};rport"
