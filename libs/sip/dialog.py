"""Dialog state (RFC 3261 §12): identity, route set, remote target, CSeq, and the 2xx that waits for its ACK.

    UAS   EARLY -answer-> CONFIRMED -BYE-> ENDED;  EARLY -reject, CANCEL-> ENDED;  EARLY -BYE from the caller-> ENDED
    UAC   INVITING -1xx with tag-> EARLY -2xx-> CONFIRMED -BYE-> ENDED;  INVITING, EARLY -3xx..6xx-> ENDED
          INVITING, EARLY -cancel-> CANCELLING -any final-> ENDED (a 2xx is acknowledged and followed by BYE)

CONFIRMED has parts of its own, each with its timer: `timer` (RFC 4028), `waiting_offer` (an offer of ours that was
refused with 491 and waits for its next attempt, §14.1), `referral` (a transfer that the peer carries out, RFC 3515).

ENDED means that the application was told. The object may outlive it while a 2xx of ours still waits for its ACK,
because BYE may not be sent before (§15); `bye_after_ack` remembers that.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from enum import Enum

from libs.sip.digest import Authenticator, Tried
from libs.sip.message import HeaderList, Request, Response, serialize
from libs.sip.sdp import Direction, SessionDescription
from libs.sip.session_timer import MIN_SE_S, SessionTimer
from libs.sip.uri import NameAddr, SipUri

Address = tuple[str, int]
DialogKey = tuple[str, str, str]


class DialogState(Enum):
    INVITING = "inviting"
    EARLY = "early"
    CANCELLING = "cancelling"
    CONFIRMED = "confirmed"
    ENDED = "ended"


@dataclass(slots=True)
class UnacknowledgedSuccess:
    """A 2xx of ours: repeated at T1, 2*T1 .. T2 until the ACK, given up after 64*T1 (RFC 3261 §13.3.1.4)."""

    data: bytes
    destination: Address
    cseq: int
    interval_s: float
    repeat_at: float
    give_up_at: float
    offer: SessionDescription | None = None
    is_first: bool = True

    def deadline(self) -> float:
        return min(self.repeat_at, self.give_up_at)


@dataclass(slots=True)
class SentRequest:
    """A request of ours inside a dialog as it was asked for, to be sent again with credentials or after a 491.

    Session and credential headers are not among `headers`: they are put in anew each time. `is_refresh` marks what the
    session timer sent and nobody asked for.
    """

    dialog: Dialog
    method: str
    headers: HeaderList = ()
    body: bytes = b""
    destination: Address | None = None
    is_refresh: bool = False
    tried: Tried = ()
    glares: int = 0
    raises: int = 0
    is_second_try: bool = False
    auth_headers: HeaderList = ()


@dataclass(slots=True)
class Dialog:
    """One dialog, seen from our side. `local` and `remote` are the From/To values without tag."""

    id: str
    is_uas: bool
    call_id: str
    local: str
    local_tag: str
    remote: str
    peer: Address  # where the latest message came from
    state: DialogState
    remote_tag: str = ""
    remote_target: SipUri | None = None
    route_set: tuple[str, ...] = ()
    local_cseq: int = 0
    remote_cseq: int = -1
    local_sdp: SessionDescription | None = None
    invite: Request | None = None
    invite_key: tuple[str, ...] = ()
    unacknowledged: UnacknowledgedSuccess | None = None
    bye_after_ack: str | None = None
    auth: Authenticator | None = None
    remote_allow: frozenset[str] = frozenset()
    local_direction: Direction = Direction.SENDRECV
    session_interval_s: int = 0
    min_se_s: int = MIN_SE_S
    timer: SessionTimer | None = None
    open_update: bool = False
    waiting_offer: SentRequest | None = None
    reliable_sequence: dict[str, int] = field(default_factory=dict)
    early_answers: dict[str, SessionDescription] = field(default_factory=dict)  # of provisional responses, by To tag
    referral_open: bool = False
    referral_settled: bool = False
    inbound_referral: int | None = None
    ring_timed_out: bool = False
    flow_is_open: bool = False  # TCP and TLS: the connection to `peer` stands

    @property
    def key(self) -> DialogKey:
        """Without a remote tag while we are calling: each leg of a forked call has another."""
        return self.call_id, self.local_tag, self.remote_tag

    @property
    def is_inviting(self) -> bool:
        """Whether we are calling and nobody has answered."""
        return not self.is_uas and self.state in (DialogState.INVITING, DialogState.EARLY, DialogState.CANCELLING)

    def learn_route(self, message: Request | Response) -> None:
        """Route set from Record-Route: in order for the callee, reversed for the caller (§12.1.1, §12.1.2)."""
        routes = message.values("record-route")
        self.route_set = tuple(routes if self.is_uas else reversed(routes))

    def learn_target(self, message: Request | Response) -> None:
        """Remote target from Contact: at the start and with every target refresh (§12.2). Raises SipParseError."""
        contacts = message.values("contact")
        if contacts:
            self.remote_target = NameAddr.parse(contacts[0]).uri

    def learn_allow(self, message: Request | Response) -> None:
        """Methods the peer serves (§20.5); an absent header says nothing."""
        allowed = message.values("allow")
        if allowed:
            self.remote_allow = frozenset(method.upper() for method in allowed)

    def request_path(self) -> tuple[str, list[str]]:
        """Request URI and Route values; a strict router first in the route set swaps places (§12.2.1.1)."""
        target = str(self.remote_target)
        if not self.route_set:
            return target, []
        first = NameAddr.parse(self.route_set[0]).uri
        if first.is_loose_router:
            return target, list(self.route_set)
        return str(first), [*self.route_set[1:], f"<{target}>"]

    def addresses(self) -> tuple[str, str]:
        """From and To of our requests."""
        remote = f"{self.remote};tag={self.remote_tag}" if self.remote_tag else self.remote
        return f"{self.local};tag={self.local_tag}", remote

    def next_hop(self, default_port: int = 5060) -> Address:
        """Address that requests go to: the first route, else the remote target.

        A transport named there (`;transport=tcp`) is not looked at: the dialog stays with its user agent, which speaks
        one. Over TCP and TLS the connection that the host last used serves both ways while it stands: the port in its
        Contact is often closed to us, and the certificate was checked against the trunk's name, not this address.

        Host names are not resolved here: then, when the peer names a private address but its packets come from a
        public one (a NAT without rport support on the way), and when it names an address of the other IP version,
        which our socket cannot send to, the address its packets come from is used.
        """
        uri = NameAddr.parse(self.route_set[0]).uri if self.route_set else self.remote_target
        if uri is None:
            return self.peer
        try:
            host = ipaddress.ip_address(uri.host.strip("[]"))
            source = ipaddress.ip_address(self.peer[0])
        except ValueError:
            return self.peer
        if host.version != source.version or host.is_unspecified or (host.is_private and not source.is_private):
            return self.peer
        if self.flow_is_open and host == source:
            return self.peer
        return str(host), uri.port or default_port

    def build_request(
        self, method: str, cseq: int, via: str, headers: HeaderList = (), body: bytes = b""
    ) -> bytes:  # fmt: skip
        """A request inside the dialog (§12.2.1.1)."""
        request_uri, routes = self.request_path()
        local, remote = self.addresses()
        lines = [("Via", via), ("Max-Forwards", "70"), *(("Route", route) for route in routes)]
        lines += [("From", local), ("To", remote), ("Call-ID", self.call_id)]
        lines += [("CSeq", f"{cseq} {method}"), *headers]
        return serialize(f"{method} {request_uri} SIP/2.0", lines, body)


def without_tag(address: NameAddr) -> str:
    """A From or To value with all parameters but the tag, as it stands in later requests."""
    kept = [f"{name}" if value is None else f"{name}={value}" for name, value in address.parameters if name != "tag"]
    if "<" not in address.text:
        return ";".join([f"<{address.uri}>", *kept])
    return ";".join([address.text[: address.text.rfind(">") + 1], *kept])
