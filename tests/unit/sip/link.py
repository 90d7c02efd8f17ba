"""Two real user agents joined by a list with a loss pattern and a clock of its own."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable

from libs.sip.events import Action, Send
from libs.sip.message import Request, Response, parse
from libs.sip.sdp import LocalMedia, make_offer
from libs.sip.user_agent import OutgoingCall, UaConfig, UserAgent

CALLER = ("192.0.2.10", 5060)
CALLEE = ("192.0.2.20", 5060)
STRANGER = ("192.0.2.99", 40000)

OFFER = make_offer(LocalMedia(CALLER[0], 40000, session_id=7)).serialize()
ANSWER = make_offer(LocalMedia(CALLEE[0], 50000, codecs=("PCMU",), session_id=9)).serialize()


def tokens(prefix: str) -> Callable[[], str]:
    numbers = itertools.count(1)
    return lambda: f"{prefix}{next(numbers)}"


def agent(address: tuple[str, int], prefix: str, **settings) -> UserAgent:
    return UserAgent(UaConfig(address[0], address[1], **settings), tokens(prefix))


class Link:
    """Carries datagrams between two agents; `wire` holds (time, sender, message), lost ones too."""

    def __init__(self, **settings) -> None:
        self.now = 100.0
        self.caller = agent(CALLER, "c", **settings)
        self.callee = agent(CALLEE, "s", **settings)
        self.wire: list[tuple[float, str, Request | Response]] = []
        self.lose: Callable[[str, Request | Response], bool] = lambda sender, message: False
        self.at_caller: list[Action] = []
        self.at_callee: list[Action] = []
        self._queue: list[tuple[str, Send]] = []

    def caller_does(self, actions: Iterable[Action]) -> None:
        self._take("caller", actions)
        self.settle()

    def callee_does(self, actions: Iterable[Action]) -> None:
        self._take("callee", actions)
        self.settle()

    def _take(self, side: str, actions: Iterable[Action]) -> None:
        for action in actions:
            if isinstance(action, Send):
                message = parse(action.data)
                self.wire.append((self.now, side, message))
                if not self.lose(side, message):
                    self._queue.append((side, action))
            else:
                (self.at_caller if side == "caller" else self.at_callee).append(action)

    def settle(self) -> None:
        while self._queue:
            sender, send = self._queue.pop(0)
            if sender == "caller" and send.destination == CALLEE:
                self._take("callee", self.callee.receive(send.data, CALLER, self.now))
            elif sender == "callee" and send.destination == CALLER:
                self._take("caller", self.caller.receive(send.data, CALLEE, self.now))

    def run(self, seconds: float) -> None:
        """Let time pass, firing each deadline at its own time."""
        until = self.now + seconds
        while True:
            due = [at for at in (self.caller.deadline(), self.callee.deadline()) if at is not None and at <= until]
            if not due:
                break
            self.now = max(self.now, min(due))
            self._take("caller", self.caller.expire(self.now))
            self._take("callee", self.callee.expire(self.now))
            self.settle()
        self.now = until

    def sent(self, side: str, what: str | int) -> list[Request | Response]:
        """Messages of one side by method or status."""
        return [m for _, s, m in self.wire if s == side and what == (m.method if isinstance(m, Request) else m.status)]

    def sent_at(self, side: str, what: str | int) -> list[float]:
        return [
            round(at - 100.0, 3)
            for at, s, m in self.wire
            if s == side and what == (m.method if isinstance(m, Request) else m.status)
        ]

    def place(self, sdp: str = OFFER, **fields) -> str:
        call = OutgoingCall(
            f"sip:bestellung@{CALLEE[0]}", CALLEE, f"sip:+4930123@{CALLER[0]}", "Erika Mustermann", sdp, **fields
        )
        dialog, actions = self.caller.invite(call, self.now)
        self.caller_does(actions)
        return dialog

    def incoming(self) -> str:
        """Dialog id of the latest call at the callee."""
        from libs.sip.events import IncomingCall

        return next(a.dialog for a in reversed(self.at_callee) if isinstance(a, IncomingCall))

    def establish(self, **fields) -> tuple[str, str]:
        """A call that was answered and acknowledged; dialog ids of caller and callee."""
        ours = self.place(**fields)
        theirs = self.incoming()
        self.callee_does(self.callee.answer(theirs, ANSWER, self.now))
        return ours, theirs
