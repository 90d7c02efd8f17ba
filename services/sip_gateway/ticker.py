"""One ticker for all calls: every 5 ms it reads the RTP sockets that have something and sends what is due.

Wake-ups are what costs, not packets (docs/adr/0004): so sockets are polled without blocking instead of
waking the loop each, and all frames of a slot leave for the bus in one write. It stands still without calls.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable

from libs.call_leg.instruments import TICKER
from libs.runtime.log import get_logger
from services.sip_gateway.rtp_session import RtpSession

log = get_logger()

SLOT_S = 0.005


class Ticker:
    """Sessions are added at their set-up and removed at their end.

    `on_lateness` hears how late each slot ran, `on_failure` of a session that raised; it is served no more.
    """

    def __init__(self, on_lateness: Callable[[float, float], None], on_failure: Callable[[RtpSession], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._selector = selectors.DefaultSelector()
        self._sessions: dict[int, RtpSession] = {}
        self._on_lateness = on_lateness
        self._on_failure = on_failure
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0
        self.slots = 0

    def add(self, session: RtpSession) -> None:
        """Serve a call."""
        self._sessions[session.fileno] = session
        self._selector.register(session.fileno, selectors.EVENT_READ, (session, session.read))
        if session.rtcp_fileno is not None:
            self._selector.register(session.rtcp_fileno, selectors.EVENT_READ, (session, session.read_rtcp))
        if self._timer is None:
            self._due = self._loop.time() + SLOT_S
            self._timer = self._loop.call_at(self._due, self._slot)

    def remove(self, session: RtpSession) -> None:
        """The call has ended; its RTCP BYE goes out."""
        self._drop(session)
        session.finish(self._loop.time())

    def _drop(self, session: RtpSession) -> None:
        if self._sessions.pop(session.fileno, None) is None:
            return
        self._selector.unregister(session.fileno)
        if session.rtcp_fileno is not None:
            self._selector.unregister(session.rtcp_fileno)

    def close(self) -> None:
        """Stop."""
        if self._timer is not None:
            self._timer.cancel()
        self._selector.close()

    def _failed(self, session: RtpSession) -> None:
        log.exception("the media of a call failed")
        self._drop(session)
        self._on_failure(session)

    def _slot(self) -> None:
        now = self._loop.time()
        lateness = now - self._due
        TICKER.observe(max(0.0, lateness))
        self._on_lateness(lateness, now)
        for key, _ in self._selector.select(0):
            session, read = key.data
            try:
                read(now)
            except Exception:  # noqa: BLE001  as below
                self._failed(session)
        # A packet belongs to the slot nearest to its time, by the schedule and not by when the slot happened to run:
        # one whose time falls together with a slot's would else change between two slots, 5 ms apart, all the time.
        nearest = (self._due if lateness < SLOT_S else now) + SLOT_S / 2
        for session in tuple(self._sessions.values()):
            try:
                session.tick(nearest)
            except Exception:  # noqa: BLE001  one call's defect must not silence all the others
                self._failed(session)
        self.slots += 1
        if not self._sessions:
            self._timer = None
            return
        self._due += SLOT_S
        if self._due <= now:  # late by more than a slot: go on from here, missed slots are not made up
            self._due = now + SLOT_S
        self._timer = self._loop.call_at(self._due, self._slot)
