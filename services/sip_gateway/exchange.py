"""What all calls of this gateway share: SIP, sockets for RTP, the ticker, trunks, and whose each dialog is."""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter
from collections.abc import Callable
from typing import Protocol

from libs.call_leg.audio import CallAudio, Publish
from libs.call_leg.last_words import LastWords
from libs.contracts.termination import Reason, Termination
from libs.sip import events as sip
from libs.sip.errors import SipStateError
from libs.sip.user_agent import UserAgent
from services.sip_gateway.negotiation import Agreed, Refusal
from services.sip_gateway.rtp_ports import NoRtpPort, PortPool, RtpSocket
from services.sip_gateway.rtp_session import RtpSession, RtpStart
from services.sip_gateway.ticker import Ticker
from services.sip_gateway.trace import SipTrace
from services.sip_gateway.transport import Local, SipTransport
from services.sip_gateway.trunk import Trunks


class DialogOwner(Protocol):
    """Whoever a dialog's events are for; told until its `Ended`, `Rejected` or `Cancelled`."""

    def on_sip(self, event: sip.Action) -> None:
        """What the SIP core reports of the dialog."""


class Exchange:
    """One per gateway, which sets `last_words`."""

    last_words: LastWords

    def __init__(  # noqa: PLR0913, PLR0917  the parts that the gateway is made of
        self, gw: str, transport: SipTransport, ticker: Ticker, ports: PortPool, trunks: Trunks, trace: SipTrace,
        send_frame: Publish, public_host: str | None,
    ) -> None:  # fmt: skip
        self.gw = gw
        self.transport = transport
        self.ticker = ticker
        self.ports = ports
        self.trunks = trunks
        self.trace = trace
        self.send_frame = send_frame
        self._public_host = public_host
        self._loop = asyncio.get_running_loop()
        self.owners: dict[str, DialogOwner] = {}
        self.counters: Counter[str] = Counter()
        self.media: Counter[str] = Counter()
        """Media statistics of all calls that ended; frames that came after `call.ended` are in it too."""

    # -- SIP ---------------------------------------------------------------------------------------------------

    @property
    def now(self) -> float:
        """The event loop's time."""
        return self._loop.time()

    def command(self, local: Local, step: Callable[[UserAgent, float], list[sip.Action]]) -> None:
        """Have a user agent do something, and send what comes of it.

        Raises:
            SipStateError: the dialog is not where it must be for that; SipParseError: an address cannot be read.
        """
        self.transport.perform(local, step(self.transport.core(local), self.now))

    def tell(self, local: Local, step: Callable[[UserAgent, float], list[sip.Action]]) -> bool:
        """The same where a dialog that is over by now needs nothing more; False then."""
        try:
            self.command(local, step)
        except SipStateError:
            self.counters["too_late"] += 1
            return False
        return True

    # -- RTP ---------------------------------------------------------------------------------------------------

    def rtp_socket(self, local: Local) -> RtpSocket:
        """A pair of ports on our address.

        Raises:
            Refusal: none is free.
        """
        host = local.host
        if self._public_host is not None:
            host = "::" if ":" in self._public_host else "0.0.0.0"
        try:
            return self.ports.acquire(host)
        except NoRtpPort as error:
            raise Refusal(Termination.of(Reason.AT_CAPACITY, str(error))) from None
        except OSError as error:
            raise Refusal(Termination.of(Reason.INTERNAL_ERROR, f"no RTP socket on {host}: {error}")) from None

    def open_rtp(self, sock: RtpSocket, media: Agreed, audio: CallAudio) -> RtpSession:
        """A session on the socket, served by the ticker until `close_rtp`."""
        start = RtpStart(secrets.randbits(32), secrets.randbits(15), secrets.randbits(32))
        rtp = RtpSession(sock, media.format, media.remote, audio, start)
        rtp.may_send = media.may_send
        rtp.may_latch = self.transport.answers
        self.ticker.add(rtp)
        return rtp

    def close_rtp(self, rtp: RtpSession, sock: RtpSocket) -> None:
        """The end of a session; its ports drain."""
        self.ticker.remove(rtp)
        self.media.update(rtp.statistics().counters())
        self.ports.release(sock)
