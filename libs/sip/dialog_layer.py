"""What both sides of a call share: transactions, dialogs, their timers, replies and requests inside a dialog."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace

from libs.sip.dialog import Address, Dialog, DialogKey, DialogState, SentRequest
from libs.sip.digest import Authenticator, Credentials, DigestError
from libs.sip.digest_server import DigestServer
from libs.sip.events import Action, Cancelled, Ended, Rejected, Send
from libs.sip.message import HeaderList, Reply, Request, Response, Via, build_response
from libs.sip.screening import EXTENSIONS
from libs.sip.sdp import SessionDescription
from libs.sip.session_timer import MIN_SE_S, SessionExpires
from libs.sip.timers import Deadlines
from libs.sip.transaction import (
    ClientInvite,
    ClientNonInvite,
    InviteHead,
    ServerInvite,
    ServerNonInvite,
    State,
    TimerValues,
    Transaction,
)
from libs.sip.uri import DEFAULT_PORTS, NameAddr, SipUri, Transport

TransactionKey = tuple[str, ...]
TimerKey = tuple[str, ...]

Doorkeeper = Callable[[Address], DigestServer | None]
"""Who must say a password before a call from this source is taken; None for sources that are trusted as they are."""

MAGIC_COOKIE = "z9hG4bK"
# first words of the timer keys that only a live dialog has
_DIALOG_PARTS = ("session", "offer", "ring")


@dataclass(frozen=True)
class UaConfig:
    """Settings of one user agent. Times in seconds; `local_host` is what peers can reach, as it stands in Contact.

    `session_expires_s` is the interval that calls of ours ask for (RFC 4028), 0 to ask for none. `uses_100rel` says
    that we can take reliable provisional responses (RFC 3262).

    A user agent speaks one `transport`. Its requests go over that even when the peer's URI names another, so that a
    destination is an address and nothing else; with TCP and TLS it stands for the connection to that address.
    """

    local_host: str
    local_port: int
    user_agent: str = "callbus"
    contact_user: str = "callbus"
    codecs: tuple[str, ...] = ("PCMU", "PCMA")
    t1_s: float = 0.5
    t2_s: float = 4.0
    t4_s: float = 5.0
    session_expires_s: int = 1800
    uses_100rel: bool = True
    accepts_refer: bool = False
    max_dialogs: int = 2000
    max_transactions: int = 10_000
    max_datagram_bytes: int = 16_384
    transport: Transport = "udp"

    @property
    def is_reliable(self) -> bool:
        """True over TCP and TLS."""
        return self.transport != "udp"

    @property
    def contact(self) -> SipUri:
        """Where the peers of this user agent reach us."""
        return self.contact_of(self.contact_user)

    def contact_of(self, user: str) -> SipUri:
        """The same under another user name."""
        return SipUri.build(user, self.local_host, self.local_port, self.transport)


def server_key(request: Request, method: str = "") -> TransactionKey:
    """Which server transaction a request belongs to (§17.2.3); `method` INVITE finds the one that a CANCEL means."""
    method = method or ("INVITE" if request.method == "ACK" else request.method)
    via = request.via
    if via.branch.startswith(MAGIC_COOKIE) and len(via.branch) > len(MAGIC_COOKIE):
        return "server", via.branch, via.host.lower(), str(via.port or 5060), method
    # a client of RFC 2543: no branch to rely on
    return "server", request.call_id, request.from_.tag, str(request.cseq), str(request.uri), via.text, method


def client_key(branch: str, method: str) -> TransactionKey:
    """Which client transaction a response belongs to (§17.1.3)."""
    return branch, method


def check_path(message: Request | Response) -> None:
    """Raise SipParseError now rather than when the BYE is due, if an address on the way back cannot be read."""
    for name in ("contact", "record-route"):
        for value in message.values(name):
            NameAddr.parse(value)


class DialogLayer:
    """State of one user agent and the steps that its calling and its called side have in common."""

    def __init__(
        self, config: UaConfig, new_token: Callable[[], str], credentials: Credentials | None = None,
        doorkeeper: Doorkeeper | None = None,
    ) -> None:  # fmt: skip
        self.counters: Counter[str] = Counter()
        self._config = config
        self._new_token = new_token
        self._credentials = credentials
        self._doorkeeper = doorkeeper
        self._timers = TimerValues(config.t1_s, config.t2_s, config.t4_s, config.is_reliable)
        self._transactions: dict[TransactionKey, Transaction] = {}
        self._dialogs: dict[str, Dialog] = {}
        self._by_key: dict[DialogKey, Dialog] = {}
        self._merged: set[TransactionKey] = set()
        self._deadlines: Deadlines[TimerKey] = Deadlines()
        host = f"[{config.local_host}]" if ":" in config.local_host else config.local_host
        self._sent_by = f"{host}:{config.local_port}"
        self._contact = ("Contact", f"<{config.contact}>")

    @property
    def transport(self) -> Transport:
        """What this user agent speaks."""
        return self._config.transport

    @property
    def active_dialogs(self) -> int:
        """Dialogs whose end was not yet told."""
        return sum(dialog.state is not DialogState.ENDED for dialog in self._dialogs.values())

    def _rearm(self, key: TransactionKey, transaction: Transaction) -> None:
        timer_key = ("transaction", *key)
        if transaction.state is State.TERMINATED:
            self._transactions.pop(key, None)
            self._deadlines.set(timer_key, None)
            self._merged.discard(transaction.merge_key)
        else:
            self._deadlines.set(timer_key, transaction.deadline())

    def _add_transaction(self, key: TransactionKey, transaction: Transaction) -> None:
        self._transactions[key] = transaction
        self._rearm(key, transaction)

    def _reply(
        self, request: Request, source: Address, reply: int | Reply, now: float, to_tag: str = ""
    ) -> list[Action]:
        """A final response from a transaction of its own.

        Half of the table is kept for calls: when the rest is full, requests outside dialogs are answered statelessly
        (RFC 3261 §8.2.7), so a flood of OPTIONS or of unwanted INVITEs cannot keep callers out.
        """
        reply = Reply(reply) if isinstance(reply, int) else reply
        self.counters[f"replied_{reply.status}"] += 1
        destination = self._way_back(request.via, source)
        reply = replace(reply, headers=(*reply.headers, self._server))
        data = build_response(request, reply, source, to_tag or self._new_token())
        limit = self._config.max_transactions // (1 if request.to.tag else 2)
        if len(self._transactions) >= limit:
            self.counters["stateless_replies"] += 1
            return [Send(data, destination)]
        kind = ServerInvite if request.method == "INVITE" else ServerNonInvite
        transaction = kind(self._timers, destination)
        transaction.respond(reply.status, data, now)
        self._add_transaction(server_key(request), transaction)
        return [Send(data, destination)]

    def _way_back(self, via: Via, source: Address) -> Address:
        """Where responses go: over TCP and TLS the connection that the request came from (§18.2.2)."""
        return source if self._config.is_reliable else via.response_destination(source)

    def _next_hop(self, dialog: Dialog) -> Address:
        return dialog.next_hop(DEFAULT_PORTS[self._config.transport])

    def _heard_from(self, dialog: Dialog, source: Address) -> None:
        dialog.peer, dialog.flow_is_open = source, self._config.is_reliable

    @property
    def _server(self) -> tuple[str, str]:
        return "Server", self._config.user_agent

    def _open_client_invite(self, dialog: Dialog) -> bool:
        transaction = self._transactions.get(dialog.invite_key)
        return isinstance(transaction, ClientInvite) and transaction.state in (State.CALLING, State.PROCEEDING)

    def _send_bye(self, dialog: Dialog, now: float, cause: str) -> list[Action]:
        headers = [("User-Agent", self._config.user_agent)]
        if cause:
            headers.append(("Reason", cause))
        return self._request(dialog, "BYE", now, headers)

    def _request(
        self, dialog: Dialog, method: str, now: float, headers: HeaderList = (), body: bytes = b"",
        destination: Address | None = None,
    ) -> list[Action]:  # fmt: skip
        """A request inside the dialog in a client transaction of its own; `destination` replaces the next hop."""
        return self._send_request(SentRequest(dialog, method, headers, body, destination), now)

    def _send_request(self, sent: SentRequest, now: float) -> list[Action]:
        dialog, method, body = sent.dialog, sent.method, sent.body
        branch = self._new_branch()
        dialog.local_cseq += 1
        main = self._dialogs.get(dialog.id)
        if main is not None:
            main.local_cseq = max(main.local_cseq, dialog.local_cseq)
        via = self._via(branch)
        if dialog.auth is None:
            dialog.auth = Authenticator(self._credentials, self._new_token)
        sent.auth_headers = dialog.auth.headers(method, dialog.request_path()[0], body)
        headers = (*sent.headers, *self._session_headers(dialog, method), *sent.auth_headers)
        data = dialog.build_request(method, dialog.local_cseq, via, headers, body)
        destination = sent.destination or self._next_hop(dialog)
        key = client_key(branch, method)
        transaction: ClientInvite | ClientNonInvite
        if method == "INVITE":
            head = InviteHead(*dialog.request_path(), via, *dialog.addresses(), dialog.call_id, dialog.local_cseq)
            offer = SessionDescription.parse(body.decode()) if body else None
            transaction = ClientInvite(self._timers, destination, data, now, head, offer)
            dialog.invite_key = key
        else:
            transaction = ClientNonInvite(self._timers, destination, data, now)
        transaction.dialog, transaction.sent = dialog.id, sent
        self._add_transaction(key, transaction)
        return [Send(data, destination)]

    def _session_headers(self, dialog: Dialog, method: str) -> list[tuple[str, str]]:
        """Supported, Session-Expires and Min-SE of an INVITE or UPDATE (RFC 4028 §7.1, §7.4; RFC 3262 §4)."""
        if method not in ("INVITE", "UPDATE"):
            return []
        is_first = dialog.state is not DialogState.CONFIRMED
        offers_100rel = is_first and self._config.uses_100rel and dialog.local_sdp is not None
        lines = [("Supported", ", ".join([*(["100rel"] if offers_100rel else []), *EXTENSIONS]))]
        if is_first and dialog.session_interval_s:
            lines.append(("Session-Expires", str(dialog.session_interval_s)))
        elif dialog.timer is not None:
            interval_s = max(dialog.timer.interval_s, dialog.min_se_s)
            lines.append(
                ("Session-Expires", str(SessionExpires(interval_s, "uac" if dialog.timer.we_refresh else "uas")))
            )
        if dialog.min_se_s > MIN_SE_S:
            lines.append(("Min-SE", str(dialog.min_se_s)))
        return lines

    def _authorize(self, sent: SentRequest, response: Response, now: float) -> list[Action] | str:
        """The request again with credentials (RFC 3261 §22.2), or why there is no point in that."""
        assert sent.dialog.auth is not None
        try:
            sent.tried = sent.dialog.auth.learn(response.status, response.headers, sent.tried)
        except DigestError as error:
            self.counters["not_authorized"] += 1
            return str(error)
        self.counters["challenges_answered"] += 1
        return self._send_request(sent, now)

    def _jitter(self) -> float:
        """A number from 0 to 1 that differs from call to call, out of the same source as ids and tags."""
        return zlib.crc32(self._new_token().encode()) / 0xFFFF_FFFF

    def _end(self, dialog: Dialog, actions: list[Action], event: Ended | Cancelled | Rejected) -> None:
        """Tell the end once; the dialog stays only as long as a 2xx waits for its ACK."""
        if dialog.state is not DialogState.ENDED:
            dialog.state = DialogState.ENDED
            dialog.timer = dialog.waiting_offer = None
            for part in _DIALOG_PARTS:
                self._deadlines.set((part, dialog.id), None)
            actions.append(event)
        if dialog.unacknowledged is None:
            self._forget(dialog)

    def _forget(self, dialog: Dialog) -> None:
        self._deadlines.set(("dialog", dialog.id), None)
        self._dialogs.pop(dialog.id, None)
        self._by_key.pop(dialog.key, None)

    def _new_branch(self) -> str:
        return f"{MAGIC_COOKIE}{self._new_token()}"

    def _via(self, branch: str) -> str:
        return f"SIP/2.0/{self._config.transport.upper()} {self._sent_by};branch={branch};rport"
