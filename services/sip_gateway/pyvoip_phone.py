"""Signalling by pyVoIP, through its maintained fork `rfcvoip`: the only module of ours that imports it (GPLv3).

Everything here runs on that package's threads: one that receives, one that refreshes the registration, one for each
call until it is answered. What happens is handed to `Observer`, which gets over to the event loop by itself. Media is
ours: `Media` stands where the package would put its RTP client, and only holds the socket and what was negotiated.
"""

from __future__ import annotations

import socket
import threading
from dataclasses import dataclass
from typing import Any, Protocol

from rfcvoip import RTP, SIP
from rfcvoip.VoIP.VoIP import CallState, VoIPCall, VoIPPhone

SPOKEN = ("PCMU", "PCMA")
DECISION_S = 120.0  # a call whose leg says neither yes nor no for so long has none


class Observer(Protocol):
    """Called on pyVoIP's threads."""

    def arrived(self, call: Call) -> None:
        """An INVITE for us; `call.decide` says what becomes of it."""

    def changed(self, call: Call, state: str) -> None:
        """`ringing`, `answered` or `ended`."""

    def media_moved(self, call: Call) -> None:
        """A re-INVITE named another address or direction."""


@dataclass(frozen=True, slots=True)
class Account:
    """The registrar: pyVoIP serves exactly one."""

    server: str
    port: int
    username: str
    password: str
    local_host: str
    local_port: int
    rtp_ports: tuple[int, int]
    answer_delay_s: float = 0.0


class Media:
    """Stands for `rfcvoip.RTP.RTPClient`, whose names it bears, without its two threads and its 8-bit audio."""

    def __init__(self, codecs: dict[int, Any], local: tuple[str, int], remote: tuple[str, int], sendrecv: Any) -> None:
        self.assoc = codecs
        self.inIP, self.inPort = local
        self.outIP, self.outPort = remote
        self.sendrecv = sendrecv
        self.sock = socket.socket(socket.AF_INET6 if ":" in local[0] else socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.setblocking(False)
        self.sock.bind(local)
        self.is_taken = False  # by an RtpSession, which closes it

    def start(self) -> None:
        """The call is answered; the leg knows when to send."""

    def stop(self) -> None:
        """The call is over."""
        if not self.is_taken:
            self.sock.close()

    def payload_type(self, name: str) -> int | None:
        """The payload type negotiated for an encoding name."""
        return next((number for number, codec in self.assoc.items() if str(codec) == name), None)


class Call(VoIPCall):  # type: ignore[misc]  # Any where rfcvoip is not installed, as in our own set-up
    """One call. `state` is a property, so that every change is seen, wherever the package makes it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.decided = threading.Event()
        self.answers = False
        self.status = 0  # of the final response that refused our INVITE
        self.ended_by_peer = False
        self._state: Any = None
        super().__init__(*args, **kwargs)

    @property
    def state(self) -> Any:
        """pyVoIP's `CallState`."""
        return self._state

    @state.setter
    def state(self, state: Any) -> None:
        is_new, self._state = state is not self._state and self._state is not None, state
        if is_new:
            self.phone.observer.changed(self, state.name.lower())

    @property
    def is_over(self) -> bool:
        """Ended, by whomever."""
        return self._state is CallState.ENDED

    @property
    def media(self) -> Media | None:
        """What was negotiated, once it was."""
        clients = self._rtp_clients_snapshot()
        return clients[0] if clients else None

    def decide(self, answers: bool) -> None:
        """From the event loop: answer inside pyVoIP's callback, or let it return without."""
        self.answers = answers
        self.decided.set()

    def create_rtp_clients(
        self, codecs: dict[int, Any], ip: str, port: Any, request: Any, baseport: int, media: Any = None
    ) -> None:
        """Our socket in place of an RTP client; only codecs that our RTP speaks stay in the answer."""
        spoken = {number: codec for number, codec in codecs.items() if _is_spoken(codec)}
        if not any(str(codec) in SPOKEN for codec in spoken.values()):
            raise RTP.RTPParseError("neither PCMU nor PCMA was offered")
        host = _media_host(request, media)
        local_port = port[0] if isinstance(port, list | tuple) else int(port)
        try:
            client = Media(spoken, (ip, local_port), (host, int(baseport)), self.sendmode)
        except OSError as error:
            raise RTP.RTPParseError(f"no RTP socket on {ip}:{local_port}: {error}") from None
        self.RTPClients.append(client)
        self._rtp_media_groups.append(
            {"media_type": "audio", "base_port": local_port, "port_count": 1, "codecs": spoken, "clients": [client]}
        )

    def renegotiate(self, request: Any) -> None:
        """A re-INVITE; the answer is pyVoIP's."""
        super().renegotiate(request)
        self.phone.observer.media_moved(self)

    def bye(self) -> None:
        """The far end hung up."""
        self.ended_by_peer = True
        super().bye()

    def refuse(self, status: int) -> None:
        """A final response other than the one that pyVoIP has for everything (486)."""
        if self._state is not CallState.RINGING:
            return
        self.sip.send_response(self.request, self.sip.gen_response(self.request, SIP.SIPStatus(status)))
        self._stop_rtp_clients()
        self._set_state(CallState.ENDED)
        self._finalize_ended_call()


class Phone(VoIPPhone):  # type: ignore[misc]  # as above
    """The package's phone with our calls in it."""

    def __init__(self, account: Account, observer: Observer) -> None:
        self.observer = observer
        self.answer_delay_s = account.answer_delay_s
        low, high = account.rtp_ports
        super().__init__(
            account.server, account.port, account.username, account.password, myIP=account.local_host,
            callCallback=self._callback_of_call, sipPort=account.local_port, rtpPortLow=low, rtpPortHigh=high,
            audio_bit_depth=16,
        )  # fmt: skip

    @staticmethod
    def _run_call_callback(callback: Any, call: Any, delay: float = 1.0) -> None:
        """The package waits a fixed second before each callback; ours is a setting, 0 by default."""
        VoIPPhone._run_call_callback(callback, call, call.phone.answer_delay_s)

    def _callback_of_call(self, call: Call) -> None:
        """pyVoIP's callback: it answers here, once the agent is ready."""
        self.observer.arrived(call)
        call.decided.wait(DECISION_S)
        if call.answers and call.state is CallState.RINGING:
            call.answer()

    def _create_Call(self, request: Any, sess_id: int) -> None:
        call = Call(self, CallState.RINGING, request, sess_id, self.myIP, sendmode=self.recvmode)
        self._set_call(request.headers["Call-ID"], call)

    def _default_audio_offer(self) -> dict[int, Any]:
        offer = super()._default_audio_offer()
        return {number: codec for number, codec in offer.items() if _is_spoken(codec)}

    def _invite_targets_local_account(self, request: Any) -> bool:
        """A trunk brings calls for all numbers of the account, not only for its user name."""
        return True

    def _callback_RESP_Failed(self, request: Any) -> None:
        self._keep_status(request)
        super()._callback_RESP_Failed(request)

    def _callback_RESP_NotFound(self, request: Any) -> None:
        self._keep_status(request)
        super()._callback_RESP_NotFound(request)

    def _callback_RESP_Unavailable(self, request: Any) -> None:
        self._keep_status(request)
        super()._callback_RESP_Unavailable(request)

    def _keep_status(self, request: Any) -> None:
        call = self._get_call(request.headers.get("Call-ID"))
        if call is not None:
            call.status = int(request.status)

    def call(self, number: str) -> Call:
        """Place a call; blocks until the far end said anything at all (the package waits up to 8 s and more).

        The package builds its own call object; it becomes one of ours before any answer reaches it.
        """
        with _as_own_calls():
            placed = super().call(number)
        assert isinstance(placed, Call)
        return placed


class _as_own_calls:
    """`VoIPPhone.call` names the class `VoIPCall` of its module: for its duration that name means ours."""

    _lock = threading.Lock()

    def __enter__(self) -> None:
        self._lock.acquire()
        from rfcvoip.VoIP import VoIP as package

        self._package, self._theirs = package, package.VoIPCall
        package.VoIPCall = Call

    def __exit__(self, *_: object) -> None:
        self._package.VoIPCall = self._theirs
        self._lock.release()


def _is_spoken(codec: Any) -> bool:
    return str(codec) in SPOKEN or codec is RTP.PayloadType.EVENT


def _media_host(request: Any, media: Any) -> str:
    """The c= line of the stream, else the session's."""
    for holder in (media or {}, request.body):
        lines = holder.get("c") or []
        for line in lines if isinstance(lines, list) else [lines]:
            if line.get("address"):
                return str(line["address"])
    return "0.0.0.0"


def called_number(call: Call) -> str:
    """Whom the caller dialled: the user of To."""
    to = call.request.headers.get("To", {})
    return str(to.get("number", "")) if isinstance(to, dict) else ""


def calling_number(call: Call) -> str:
    """Who calls: the user of From."""
    from_ = call.request.headers.get("From", {})
    return str(from_.get("number", "")) if isinstance(from_, dict) else ""


def socket_of(media: Media) -> socket.socket:
    """The RTP socket, from now on owned by the one who asked."""
    media.is_taken = True
    return media.sock
