"""What the user agent asks of its shell and tells the application: a list of these is the result of every call.

Each dialog ends with exactly one of `Cancelled`, `Rejected` and `Ended`; only `Send` may follow about it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from libs.sip.registration import RegistrationEvent
from libs.sip.sdp import Negotiated, SessionDescription
from libs.sip.uri import SipUri


class EndCause(StrEnum):
    """Why a dialog ended."""

    REMOTE_BYE = "remote_bye"
    LOCAL_BYE = "local_bye"
    LOCAL_CANCEL = "local_cancel"
    NO_ACK = "no_ack"
    TRANSACTION_TIMEOUT = "transaction_timeout"
    REJECTED = "rejected"
    NO_ANSWER = "no_answer"


@dataclass(frozen=True, slots=True)
class Send:
    """Send one datagram."""

    data: bytes
    destination: tuple[str, int]


@dataclass(frozen=True, slots=True)
class IncomingCall:
    """A new INVITE; 100 Trying is on its way. `offer` is None for a late offer: `answer()` then takes our offer.

    `headers` has long lower-case names. `source` is where the datagram came from, `username` whom
    the caller proved to be.
    """

    dialog: str
    request_uri: SipUri
    from_uri: SipUri
    from_display: str
    to_uri: SipUri
    call_id: str
    source: tuple[str, int]
    offer: SessionDescription | None
    headers: Mapping[str, list[str]]
    username: str = ""


@dataclass(frozen=True, slots=True)
class InviteRefused:
    """A new INVITE was refused by the core because of its offer, for the record; the refusal is among the Sends.

    `status` is 488 for no common codec, 400 for a session description that cannot be read. There is no dialog.
    """

    request_uri: SipUri
    from_uri: SipUri
    to_uri: SipUri
    source: tuple[str, int]
    status: int
    reason: str
    call_id: str


@dataclass(frozen=True, slots=True)
class Cancelled:
    """The caller gave up before we answered; 200 and 487 are already among the Sends."""

    dialog: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Confirmed:
    """The ACK to our 2xx arrived. `answer` is set after a late offer."""

    dialog: str
    answer: SessionDescription | None = None


@dataclass(frozen=True, slots=True)
class SessionChanged:
    """A re-INVITE or UPDATE changed the session and is already answered.

    `offer` is the remote description, `negotiated` our reading of it: new remote address and our direction.
    """

    dialog: str
    offer: SessionDescription
    negotiated: Negotiated


@dataclass(frozen=True, slots=True)
class DtmfInfo:
    """A digit by SIP INFO (application/dtmf-relay or application/dtmf)."""

    dialog: str
    digit: str
    duration_ms: int = 0


@dataclass(frozen=True, slots=True)
class Ringing:
    """A provisional response above 100 to our INVITE; `sdp` is set with early media."""

    dialog: str
    status: int
    sdp: SessionDescription | None = None


@dataclass(frozen=True, slots=True)
class Answered:
    """A 2xx to our INVITE, re-INVITE or UPDATE; the ACK, if any, is among the Sends. `sdp` None: it brought none."""

    dialog: str
    sdp: SessionDescription | None = None


@dataclass(frozen=True, slots=True)
class Rejected:
    """A 3xx to 6xx to our first INVITE; the ACK is already among the Sends."""

    dialog: str
    status: int
    reason: str
    headers: Mapping[str, list[str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ReinviteRejected:
    """A 3xx to 6xx to our re-INVITE or UPDATE; the session stays as it was (RFC 3261 §14.1)."""

    dialog: str
    status: int
    reason: str


@dataclass(frozen=True, slots=True)
class ReferAnswered:
    """The final response to our REFER: 2xx accepts the transfer and `TransferProgress` follows, else the call goes on.

    A REFER that nobody answers is reported as 408.
    """

    dialog: str
    status: int
    reason: str

    @property
    def is_accepted(self) -> bool:
        return self.status < 300


@dataclass(frozen=True, slots=True)
class TransferProgress:
    """What the peer says of the transfer that we asked for (RFC 3515 §2.4.5): the status line of its own INVITE.

    `is_final` comes once; `status` is then 200 for a transfer that succeeded, 0 when the subscription ended untold.
    """

    dialog: str
    status: int
    reason: str
    is_final: bool


@dataclass(frozen=True, slots=True)
class TransferRequested:
    """The peer sent REFER; `is_accepted` tells what we answered: 202, or 603 when `accepts_refer` is off.

    When accepted, `notify_transfer` is expected of the application. `replaces` is set for an attended transfer
    (RFC 3891) and unescaped.
    """

    dialog: str
    target: SipUri
    referred_by: str
    replaces: str
    is_accepted: bool


@dataclass(frozen=True, slots=True)
class Ended:
    """The dialog is over. `status` is the final response, if any; `reason` comes from Reason or the response."""

    dialog: str
    cause: EndCause
    status: int | None = None
    reason: str = ""


Action = (
    Send
    | IncomingCall
    | InviteRefused
    | Cancelled
    | Confirmed
    | SessionChanged
    | DtmfInfo
    | Ringing
    | Answered
    | Rejected
    | ReinviteRejected
    | ReferAnswered
    | TransferProgress
    | TransferRequested
    | RegistrationEvent
    | Ended
)
