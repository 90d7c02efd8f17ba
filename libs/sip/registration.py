"""Registration of one trunk with its provider (RFC 3261 §10), kept up without anybody watching.

    UNREGISTERED -start-> REGISTERING -2xx-> REGISTERED -refresh time-> REGISTERED (attempt open) -2xx-> REGISTERED
    REGISTERING, REGISTERED -refused, unanswered-> FAILED -back-off over, network returned-> REGISTERING
    any -stop-> UNREGISTERING -any final response, none-> UNREGISTERED

Theory of operation. The core decides when a REGISTER goes out and what it says; the user agent puts it into a client
transaction on the socket of the calls, so repeats and time-outs are not our business here. Every attempt has one
branch, and only the answer to the latest counts. A challenge (401, 407), an interval that is too brief (423) and a
stale nonce are answered within the attempt, each a bounded number of times. Whatever else ends an attempt waits: twice
as long after each failure, between half and the whole of that (RFC 5626 §4.5), at least as long as Retry-After says,
and `refused_retry_s` when the provider does not want us (wrong password, 403, 404), because hammering locks accounts.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum

from libs.sip.dialog import Address
from libs.sip.digest import Authenticator, DigestError, Login, Tried
from libs.sip.errors import SipParseError
from libs.sip.message import HeaderList, Response, serialize
from libs.sip.stream import PING
from libs.sip.uri import NameAddr, SipUri, find_parameter

# refresh this long before the end, or at half time of brief registrations: room for one transaction that times out
REFRESH_MARGIN_S = 40.0
MAX_INTERVAL_RAISES = 2
LONGEST_WAIT_S = 3600  # whatever a registrar says: one odd answer must not silence a trunk for good
# RFC 5626 §4.4.1: what to wait between two keep-alives, over UDP and over TCP; of a longest time, the last fifth
UDP_KEEP_ALIVE_S = (24.0, 29.0)
STREAM_KEEP_ALIVE_S = (95.0, 120.0)
KEEP_ALIVE_SPREAD = 0.2
_NUMBER = re.compile(r"\s*([0-9]{1,9})")
_REFUSALS = frozenset({401, 403, 404, 405, 407, 410, 416, 420, 604})


class KeepAlive(StrEnum):
    """How the way through a NAT is kept open: empty lines (RFC 5626 §3.5.1; over UDP too, in practice), or OPTIONS."""

    NONE = "none"
    CRLF = "crlf"
    OPTIONS = "options"


class RegistrationState(StrEnum):
    UNREGISTERED = "unregistered"
    REGISTERING = "registering"
    REGISTERED = "registered"
    FAILED = "failed"
    UNREGISTERING = "unregistering"


@dataclass(frozen=True)
class RegistrationConfig:
    """One trunk. `destination` is where REGISTER goes; `aor` is the address of record, `sip:user@provider`.

    `keep_alive_s` is the longest time between two keep-alives, 0 for none; None takes what RFC 5626 §4.4.1 recommends.
    """

    registrar_uri: str
    aor: str
    username: str
    password: str = field(repr=False)
    destination: Address
    contact_user: str = ""
    expires_s: int = 600
    keep_alive: KeepAlive = KeepAlive.CRLF
    keep_alive_s: float | None = None
    retry_s: float = 5.0
    longest_retry_s: float = 300.0
    refused_retry_s: float = 1800.0


@dataclass(frozen=True, slots=True)
class SendRequest:
    """To be sent in a client transaction under this branch; its final response or time-out comes back."""

    method: str
    branch: str
    data: bytes
    destination: Address


@dataclass(frozen=True, slots=True)
class SendKeepAlive:
    """To be sent as it is; nothing comes back."""

    data: bytes
    destination: Address


@dataclass(frozen=True, slots=True)
class Registered:
    """The provider accepted us for `expires_s` seconds; told for the first time and after failures, not per refresh."""

    registration: str
    expires_s: int


@dataclass(frozen=True, slots=True)
class RegistrationFailed:
    """An attempt failed and the next one follows in `retry_s`. `status` is None without a response."""

    registration: str
    status: int | None
    reason: str
    retry_s: float


@dataclass(frozen=True, slots=True)
class Unregistered:
    """The provider does not know us any more; `reason` says so when it could not be told."""

    registration: str
    reason: str = ""


RegistrationEvent = Registered | RegistrationFailed | Unregistered
Step = SendRequest | SendKeepAlive | RegistrationEvent


@dataclass(frozen=True, slots=True)
class LocalParty:
    """What REGISTER says of us. `via` gives the Via value for a branch, `new_token` ids, tags and jitter."""

    contact: SipUri
    user_agent: str
    via: Callable[[str], str]
    new_branch: Callable[[], str]
    jitter: Callable[[], float]
    is_reliable: bool = False


class Registration:
    """One trunk's registration. `state`, `reason`, `failures` and `expires_at` are there to be read for metrics."""

    def __init__(self, name: str, config: RegistrationConfig, local: LocalParty, new_token: Callable[[], str]) -> None:
        """Raises SipParseError for a registrar or address of record that is no SIP URI."""
        for uri in (config.registrar_uri, config.aor):
            if SipUri.parse(uri).scheme not in ("sip", "sips"):
                raise SipParseError(f"{uri[:80]!r} is not a SIP URI", "bad_uri")
        self.name = name
        self.config = config
        self.state = RegistrationState.UNREGISTERED
        self.reason = ""
        self.failures = 0
        self.expires_at: float | None = None
        self._local = local
        login = Login(config.username, config.password)
        self._auth = Authenticator(lambda realm: login, new_token)
        self._call_id = f"{new_token()}@{local.contact.host}"
        self._tag = new_token()
        self._cseq = 0
        self._expires_s = config.expires_s
        self._branch = ""
        self._tried: Tried = ()
        self._raises = 0
        self._asked_s = 0
        self._next_at: float | None = None
        self._keep_alive_at: float | None = None
        self._keep_alive_branch = ""

    @property
    def is_pending(self) -> bool:
        """True while a REGISTER waits for its response."""
        return bool(self._branch)

    # -- commands -----------------------------------------------------------------------------------------------

    def start(self, now: float) -> list[Step]:
        """Register now, whatever was going on; the first step of a new attempt."""
        self._tried, self._raises = (), 0
        if self.state is not RegistrationState.REGISTERED:
            self.state = RegistrationState.REGISTERING
        return [self._register(self._expires_s)]

    def network_returned(self, now: float) -> list[Step]:
        """The way to the provider may be open again: no back-off is worth waiting for, and a NAT forgot us."""
        if self.state in (RegistrationState.UNREGISTERED, RegistrationState.UNREGISTERING):
            return []
        self.failures = 0
        return self.start(now)

    def stop(self, now: float) -> list[Step]:
        """Take the binding back (§10.2.2); `Unregistered` follows in any case."""
        if self.state is RegistrationState.UNREGISTERING:
            return []
        self._keep_alive_at = None
        if self.state is RegistrationState.UNREGISTERED or (self.expires_at is None and not self.is_pending):
            return self._stopped("")
        self.state = RegistrationState.UNREGISTERING
        self._tried, self._raises = (), 0
        return [self._register(0)]

    # -- time ---------------------------------------------------------------------------------------------------

    def deadline(self) -> float | None:
        """The earlier of the next attempt and the next keep-alive."""
        times = [at for at in (self._next_at, self._keep_alive_at) if at is not None]
        return min(times) if times else None

    def expire(self, now: float) -> list[Step]:
        """Do what is due."""
        steps: list[Step] = []
        if self._next_at is not None and self._next_at <= now:
            steps += self.start(now)
        if self._keep_alive_at is not None and self._keep_alive_at <= now:
            self._keep_alive_at = now + self._keep_alive_wait_s()
            steps += self._keep_alive()
        return steps

    def _keep_alive_wait_s(self) -> float:
        """Random, so that many trunks behind one NAT do not ping in step."""
        longest_s = self.config.keep_alive_s
        if longest_s is None:
            low, high = STREAM_KEEP_ALIVE_S if self._local.is_reliable else UDP_KEEP_ALIVE_S
        else:
            low, high = longest_s * (1 - KEEP_ALIVE_SPREAD), longest_s
        return low + (high - low) * self._local.jitter()

    def _keep_alive(self) -> list[Step]:
        if self.config.keep_alive is KeepAlive.CRLF:
            return [SendKeepAlive(PING, self.config.destination)]
        if self._keep_alive_branch:
            return []  # one is still repeated: its time-out tells more than a second one
        self._keep_alive_branch = self._local.new_branch()
        request = self._request("OPTIONS", self._keep_alive_branch, [("Accept", "application/sdp")])
        return [request]

    # -- what comes back ----------------------------------------------------------------------------------------

    def answered(self, branch: str, response: Response, now: float) -> list[Step]:
        """The final response to a request of ours; one to an abandoned attempt changes nothing."""
        if branch == self._keep_alive_branch:
            self._keep_alive_branch = ""  # any answer shows that the way is open
            return []
        if branch != self._branch:
            return []
        status = response.status
        if status in (401, 407):
            try:
                self._tried = self._auth.learn(status, response.headers, self._tried)
            except DigestError as error:
                return self._ended(status, f"{response.reason} ({error})", response, now)
            return [self._register(self._asked_s)]
        if status == 423 and self._asked_s and self._raise_interval(response):
            return [self._register(self._expires_s)]
        if status < 300 and self.state is not RegistrationState.UNREGISTERING:
            return self._accepted(response, now)
        return self._ended(status, response.reason, response, now)

    def timed_out(self, branch: str, now: float) -> list[Step]:
        """A request of ours found no answer in 64*T1."""
        if branch == self._keep_alive_branch:
            self._keep_alive_branch = ""
            # the NAT or the registrar lost us: the binding is worth nothing until it is made anew
            return self.start(now) if self.state is RegistrationState.REGISTERED and not self.is_pending else []
        return self._ended(408, "no answer from the registrar", None, now) if branch == self._branch else []

    def cut_off(self, branch: str, now: float) -> list[Step]:
        """The connection that a request of ours went over failed before the answer (RFC 3261 §8.1.3.1)."""
        if branch == self._keep_alive_branch:
            self._keep_alive_branch = ""
        return self._ended(503, "the connection to the registrar failed", None, now) if branch == self._branch else []

    def flow_lost(self, now: float) -> list[Step]:
        """The connection that calls for us come over is gone: anew soon, not in step with others (RFC 5626 §4.5)."""
        if self.state is RegistrationState.REGISTERED and not self.is_pending:
            self._next_at = now + self.config.retry_s * (1 + self._local.jitter()) / 2
        return []

    def _raise_interval(self, response: Response) -> bool:
        """423: at least Min-Expires (§10.2.8)."""
        match = _NUMBER.match(response.header("min-expires"))
        if match is None or int(match[1]) <= self._expires_s or self._raises >= MAX_INTERVAL_RAISES:
            return False
        self._expires_s = int(match[1])
        self._raises += 1
        return True

    def _accepted(self, response: Response, now: float) -> list[Step]:
        granted_s = min(self._granted_s(response), max(LONGEST_WAIT_S, self._asked_s))
        if granted_s <= 0:
            return self._ended(response.status, "the registrar granted no time", response, now)
        self._branch = ""
        is_news = self.state is not RegistrationState.REGISTERED
        self.state, self.reason, self.failures = RegistrationState.REGISTERED, "", 0
        self.expires_at = now + granted_s
        lead_s = min(granted_s / 2, REFRESH_MARGIN_S)
        # up to a tenth earlier, so that many trunks do not refresh in step
        self._next_at = now + (granted_s - lead_s) * (1 - self._local.jitter() / 10)
        is_wanted = self.config.keep_alive is not KeepAlive.NONE and self.config.keep_alive_s != 0
        if is_wanted and self._keep_alive_at is None:
            self._keep_alive_at = now + self._keep_alive_wait_s()
        return [Registered(self.name, granted_s)] if is_news else []

    def _granted_s(self, response: Response) -> int:
        """Seconds of our binding: its Contact's expires, else Expires, else what we asked (§10.2.4, §10.3 step 8)."""
        ours = (self._local.contact.user, self._local.contact.host, self._local.contact.port or 5060)
        others = []
        for value in response.values("contact"):
            try:
                contact = NameAddr.parse(value)
            except SipParseError:
                continue
            match = _NUMBER.match(find_parameter(contact.parameters, "expires") or "")
            if match is None:
                continue
            if (contact.uri.user, contact.uri.host, contact.uri.port or 5060) == ours:
                return int(match[1])
            others.append(int(match[1]))
        if match := _NUMBER.match(response.header("expires")):
            return int(match[1])
        # a registrar behind a NAT may list us under another address
        return min(others, default=self._asked_s)

    def _ended(self, status: int, reason: str, response: Response | None, now: float) -> list[Step]:
        """The attempt is over without a binding."""
        self._branch = ""
        if self.state is RegistrationState.UNREGISTERING:
            return self._stopped("" if status < 300 else reason)
        self.state, self.reason, self.expires_at, self._keep_alive_at = RegistrationState.FAILED, reason, None, None
        retry_s = self._back_off_s(status)
        if response is not None and (match := _NUMBER.match(response.header("retry-after"))):
            retry_s = max(retry_s, float(min(int(match[1]), LONGEST_WAIT_S)))
        self.failures += 1
        self._next_at = now + retry_s
        return [RegistrationFailed(self.name, status if response is not None else None, reason, retry_s)]

    def _back_off_s(self, status: int) -> float:
        if status in _REFUSALS:
            return self.config.refused_retry_s
        longest_s = min(self.config.longest_retry_s, self.config.retry_s * 2.0 ** min(self.failures, 30))
        return longest_s * (1 + self._local.jitter()) / 2

    def _stopped(self, reason: str) -> list[Step]:
        self.state, self.reason = RegistrationState.UNREGISTERED, reason
        self._next_at = self.expires_at = self._keep_alive_at = None
        self._branch = ""
        return [Unregistered(self.name, reason)]

    # -- requests -----------------------------------------------------------------------------------------------

    def _register(self, expires_s: int) -> SendRequest:
        self._next_at = None
        self._asked_s = expires_s
        self._branch = self._local.new_branch()
        headers = [("Contact", f"<{self._local.contact}>;expires={expires_s}"), ("Expires", str(expires_s))]
        headers += self._auth.headers("REGISTER", self.config.registrar_uri)
        return self._request("REGISTER", self._branch, headers)

    def _request(self, method: str, branch: str, headers: HeaderList) -> SendRequest:
        self._cseq += 1
        config = self.config
        lines = [("Via", self._local.via(branch)), ("Max-Forwards", "70")]
        lines += [("From", f"<{config.aor}>;tag={self._tag}"), ("To", f"<{config.aor}>"), ("Call-ID", self._call_id)]
        lines += [("CSeq", f"{self._cseq} {method}"), *headers, ("User-Agent", self._local.user_agent)]
        data = serialize(f"{method} {config.registrar_uri} SIP/2.0", lines)
        return SendRequest(method, branch, data, config.destination)
