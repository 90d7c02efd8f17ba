"""SIP messages: bytes to `Request` or `Response` and back (RFC 3261 §7, §20, §25.1).

`parse` splits start line, headers (unfolded, long names in lower case) and body, and reads the headers that every
message must carry. A datagram that is not SIP at all raises `SipParseError` and is dropped. A request whose mandatory
parts are missing or wrong raises `BadRequest`, which holds enough of it to be answered with 400.
Values that were received are kept as text and echoed as text, so nothing is lost between a request and its response.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from libs.sip.errors import SipParseError
from libs.sip.uri import NameAddr, Parameters, SipUri, find_parameter, parse_host_port, parse_parameters, split_quoted

MAX_HEADERS = 128

Headers = Mapping[str, list[str]]
HeaderList = Sequence[tuple[str, str]]

# RFC 3261 §7.3.3 and the IANA registry of SIP header fields
COMPACT_NAMES = {
    "a": "accept-contact",
    "b": "referred-by",
    "c": "content-type",
    "d": "request-disposition",
    "e": "content-encoding",
    "f": "from",
    "i": "call-id",
    "j": "reject-contact",
    "k": "supported",
    "l": "content-length",
    "m": "contact",
    "o": "event",
    "r": "refer-to",
    "s": "subject",
    "t": "to",
    "u": "allow-events",
    "v": "via",
    "x": "session-expires",
    "y": "identity",
}

REASON_PHRASES = {
    100: "Trying",
    180: "Ringing",
    183: "Session Progress",
    200: "OK",
    202: "Accepted",
    300: "Multiple Choices",
    301: "Moved Permanently",
    302: "Moved Temporarily",
    305: "Use Proxy",
    380: "Alternative Service",
    400: "Bad Request",
    401: "Unauthorized",
    402: "Payment Required",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    406: "Not Acceptable",
    407: "Proxy Authentication Required",
    408: "Request Timeout",
    410: "Gone",
    413: "Request Entity Too Large",
    414: "Request-URI Too Long",
    415: "Unsupported Media Type",
    416: "Unsupported URI Scheme",
    420: "Bad Extension",
    421: "Extension Required",
    422: "Session Interval Too Small",
    423: "Interval Too Brief",
    433: "Anonymity Disallowed",
    480: "Temporarily Unavailable",
    481: "Call/Transaction Does Not Exist",
    482: "Loop Detected",
    483: "Too Many Hops",
    484: "Address Incomplete",
    485: "Ambiguous",
    486: "Busy Here",
    487: "Request Terminated",
    488: "Not Acceptable Here",
    489: "Bad Event",
    491: "Request Pending",
    493: "Undecipherable",
    500: "Server Internal Error",
    501: "Not Implemented",
    502: "Bad Gateway",
    503: "Service Unavailable",
    504: "Server Time-out",
    505: "Version Not Supported",
    513: "Message Too Large",
    600: "Busy Everywhere",
    603: "Decline",
    604: "Does Not Exist Anywhere",
    606: "Not Acceptable",
    607: "Unwanted",
    608: "Rejected",
}

_TOKEN = re.compile(r"[A-Za-z0-9.!%*_+`'~-]+\Z")
_VIA = re.compile(r"SIP\s*/\s*2\.0\s*/\s*([A-Za-z0-9.!%*_+`'~-]+)\s+(\S.*)\Z", re.DOTALL | re.IGNORECASE)
_CSEQ = re.compile(r"([0-9]{1,10})\s+(\S+)\Z")
_SIP_VERSION = re.compile(r"SIP/[0-9]+\.[0-9]+\Z", re.IGNORECASE)
_LINE_END = re.compile(r"\r\n|\n")
_FOLD = re.compile(r"(?:\r\n|\n)[ \t]+")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]+")
_HEAD_END = re.compile(rb"\r\n\r\n|\n\n|\n\r\n")


@dataclass(frozen=True, slots=True)
class Via:
    """The topmost Via (RFC 3261 §20.42): who sent the request and which branch it is."""

    transport: str
    host: str
    port: int | None
    parameters: Parameters
    text: str = field(default="", compare=False)

    @classmethod
    def parse(cls, text: str) -> Via:
        """Read one Via value. Raises SipParseError."""
        head, _, parameters = text.partition(";")
        match = _VIA.match(head.strip())
        if match is None:
            raise SipParseError(f"{text[:80]!r} is not a Via", "bad_via")
        # white space around the colon is legal (RFC 3261 §25.1, RFC 4475 §3.1.1.1)
        host, port = parse_host_port(":".join(part.strip() for part in match[2].split(":")))
        return cls(match[1].upper(), host, port, parse_parameters(parameters), text)

    @property
    def branch(self) -> str:
        return find_parameter(self.parameters, "branch") or ""

    def stamped(self, source: tuple[str, int]) -> str:
        """The Via as it goes back in responses: `received` and `rport` filled in (RFC 3261 §18.2.1, RFC 3581 §4)."""
        parameters = []
        wants_port = False
        for part in split_quoted(self.text, ";")[1:]:
            name = part.partition("=")[0].strip().lower()
            if name == "rport":
                wants_port = True
            elif name != "received" and part:
                parameters.append(part)
        if wants_port:
            parameters.append(f"rport={source[1]}")
        # RFC 3581 §4: received is mandatory beside rport even when it repeats the sent-by host
        if wants_port or self.host.strip("[]") != source[0]:
            parameters.append(f"received={source[0]}")
        return ";".join([split_quoted(self.text, ";")[0], *parameters])

    def response_destination(self, source: tuple[str, int]) -> tuple[str, int]:
        """Where responses go.

        With rport: the packet's source (RFC 3581 §4). Without it: the sent-by port at the packet's address (RFC 3261
        §18.2.2), except that a sent-by host other than that address means a NAT, where only the source port is open.
        """
        if find_parameter(self.parameters, "rport") is not None or self.host.strip("[]") != source[0]:
            return source
        return source[0], self.port or 5060


@dataclass(slots=True)
class Request:
    """A request whose mandatory headers were read. `headers` has long lower-case names and values in order."""

    method: str
    uri: SipUri
    headers: Headers
    body: bytes
    vias: list[str]
    via: Via
    from_: NameAddr
    to: NameAddr
    call_id: str
    cseq: int

    def header(self, name: str) -> str:
        """First value of a header given by its long lower-case name, "" when absent."""
        values = self.headers.get(name)
        return values[0] if values else ""

    def values(self, name: str) -> list[str]:
        """All values of a comma-separated header, over all its lines, in order."""
        return split_values(self.headers, name)


@dataclass(slots=True)
class Response:
    """A response whose mandatory headers were read."""

    status: int
    reason: str
    headers: Headers
    body: bytes
    via: Via
    from_: NameAddr
    to: NameAddr
    call_id: str
    cseq: int
    method: str

    def header(self, name: str) -> str:
        """First value of a header given by its long lower-case name, "" when absent."""
        values = self.headers.get(name)
        return values[0] if values else ""

    def values(self, name: str) -> list[str]:
        """All values of a comma-separated header, over all its lines, in order."""
        return split_values(self.headers, name)


@dataclass(frozen=True, slots=True)
class Reply:
    """What a response says beyond what it echoes; the usual phrase stands in for an empty `reason`."""

    status: int
    headers: HeaderList = ()
    body: bytes = b""
    reason: str = ""


class BadRequest(SipParseError):
    """A request that cannot be served but can be answered: its text, headers and the status it deserves."""

    def __init__(self, message: str, reason: str, status: int, method: str, headers: Headers) -> None:
        super().__init__(message, reason)
        self.status = status
        self.method = method
        self.headers = headers


def split_values(headers: Headers, name: str) -> list[str]:
    """All values of a comma-separated header, over all its lines, in order (RFC 3261 §7.3.1)."""
    return [value for line in headers.get(name, ()) for value in split_quoted(line, ",") if value]


def parse(data: bytes) -> Request | Response:
    """Read one datagram.

    Raises BadRequest (a SipParseError) for a request that deserves an error response, SipParseError for the rest.
    """
    # RFC 3261 §7.5: empty lines before the start line are ignored
    data = data.lstrip(b"\r\n")
    end = _HEAD_END.search(data)
    head, body = (data[: end.start()], data[end.end() :]) if end else (data, b"")
    # names and addresses are UTF-8 (§25.1); Latin-1 display names from old switches must not cost the call
    text = head.decode("utf-8", "replace")
    if "\n " in text or "\n\t" in text:
        text = _FOLD.sub(" ", text)
    start_line, *lines = _LINE_END.split(text)
    words = start_line.rstrip().split(" ")
    headers = _parse_headers(lines)
    if _SIP_VERSION.match(words[0]):
        return _parse_response(words, headers, body)
    if len(words) >= 3 and _SIP_VERSION.match(words[-1]) and _TOKEN.match(words[0]):
        return _parse_request(words, headers, body, complete=end is not None)
    raise SipParseError(f"{start_line[:80]!r} is not a SIP start line", "not_sip")


def _parse_headers(lines: Sequence[str]) -> dict[str, list[str]]:
    headers: dict[str, list[str]] = {}
    if len(lines) > MAX_HEADERS:
        raise SipParseError(f"{len(lines)} header lines are more than {MAX_HEADERS}", "too_many_headers")
    for line in lines:
        name, colon, value = line.partition(":")
        name = name.rstrip(" \t").lower()
        if not colon or not _TOKEN.match(name):
            # a broken line is kept as such: the request is answered with 400, a response is dropped
            headers.setdefault("", []).append(line)
            continue
        headers.setdefault(COMPACT_NAMES.get(name, name), []).append(value.strip())
    return headers


def _parse_response(words: list[str], headers: Headers, body: bytes) -> Response:
    if words[0].upper() != "SIP/2.0" or len(words) < 2 or not re.match(r"[1-6][0-9][0-9]\Z", words[1]):
        raise SipParseError("a response needs SIP/2.0 and a status from 100 to 699", "bad_response")
    mandatory = _read_mandatory(headers)
    _, via, from_, to, call_id, cseq, method = mandatory
    body = _bounded_body(headers, body)
    return Response(int(words[1]), " ".join(words[2:]), headers, body, via, from_, to, call_id, cseq, method)


def _parse_request(words: list[str], headers: Headers, body: bytes, complete: bool) -> Request:
    method = words[0]
    if words[-1].upper() != "SIP/2.0":
        raise BadRequest(f"version {words[-1][:20]} is not SIP/2.0", "bad_version", 505, method, headers)
    try:
        if len(words) != 3:
            raise SipParseError("the request line must be method, URI and version", "bad_request_line")
        if not complete:
            raise SipParseError("the empty line after the headers is missing", "truncated")
        vias, via, from_, to, call_id, cseq, cseq_method = _read_mandatory(headers)
        if cseq_method != method:
            raise SipParseError(f"CSeq says {cseq_method[:20]}, the request line {method[:20]}", "bad_cseq")
        if not from_.tag and method == "INVITE":
            raise SipParseError("From has no tag", "bad_from")
        _check_max_forwards(headers)
        uri = SipUri.parse(words[1])
        body = _bounded_body(headers, body)
    except SipParseError as error:
        raise BadRequest(str(error), error.reason, 400, method, headers) from None
    return Request(method, uri, headers, body, vias, via, from_, to, call_id, cseq)


def _read_mandatory(
    headers: Headers,
) -> tuple[list[str], Via, NameAddr, NameAddr, str, int, str]:
    """The headers that RFC 3261 §8.1.1 demands of every message, each present once and readable."""
    if "" in headers:
        raise SipParseError(f"{headers[''][0][:60]!r} is not a header line", "bad_header")
    vias = split_values(headers, "via")
    if not vias:
        raise SipParseError("Via is missing", "missing_via")
    for name in ("from", "to", "call-id", "cseq"):
        count = len(headers.get(name, ()))
        if count != 1:
            raise SipParseError(
                f"{name} stands {count} times, not once", f"missing_{name}" if not count else f"repeated_{name}"
            )
    match = _CSEQ.match(headers["cseq"][0])
    # RFC 3261 §8.1.1.5: less than 2**31
    if match is None or int(match[1]) >= 2**31:
        raise SipParseError(f"CSeq {headers['cseq'][0][:40]!r} is not a number below 2**31 and a method", "bad_cseq")
    call_id = headers["call-id"][0]
    if not call_id:
        raise SipParseError("Call-ID is empty", "missing_call-id")
    from_, to = NameAddr.parse(headers["from"][0]), NameAddr.parse(headers["to"][0])
    return vias, Via.parse(vias[0]), from_, to, call_id, int(match[1]), match[2]


def _check_max_forwards(headers: Headers) -> None:
    for value in headers.get("max-forwards", ()):
        if not re.match(r"[0-9]{1,9}\Z", value) or int(value) > 255:
            raise SipParseError(f"Max-Forwards {value[:20]!r} is not 0 to 255", "bad_max_forwards")


def _bounded_body(headers: Headers, body: bytes) -> bytes:
    """RFC 3261 §18.3: over UDP the body ends with the datagram; a longer Content-Length is an error."""
    values = headers.get("content-length")
    if not values:
        return body
    if not re.match(r"[0-9]{1,9}\Z", values[0]) or len(set(values)) > 1:
        raise SipParseError(f"Content-Length {', '.join(values)[:40]!r} is not one number", "bad_content_length")
    length = int(values[0])
    if length > len(body):
        raise SipParseError(f"Content-Length {length} is more than the {len(body)} bytes received", "truncated")
    return body[:length]


def serialize(start_line: str, headers: HeaderList, body: bytes = b"") -> bytes:
    """One message. Control characters in values become spaces, so no value can start another header."""
    lines = [_CONTROL.sub(" ", start_line)]
    lines += [f"{name}: {_CONTROL.sub(' ', value)}" for name, value in headers]
    lines.append(f"Content-Length: {len(body)}\r\n\r\n")
    return "\r\n".join(lines).encode("utf-8", "replace") + body


def build_response(
    request: Request, reply: Reply, source: tuple[str, int], to_tag: str
) -> bytes:  # fmt: skip
    """A response to `request` (RFC 3261 §8.2.6): Via, From, To, Call-ID, CSeq are echoed, a missing To tag is added."""
    untagged = request.to.tag or reply.status == 100
    to = request.to.text if untagged else f"{request.to.text};tag={to_tag}"
    lines = [("Via", request.via.stamped(source)), *(("Via", via) for via in request.vias[1:])]
    lines += [("From", request.from_.text), ("To", to), ("Call-ID", request.call_id)]
    lines += [("CSeq", f"{request.cseq} {request.method}"), *reply.headers]
    phrase = reply.reason or REASON_PHRASES.get(reply.status, "Unknown")
    return serialize(f"SIP/2.0 {reply.status} {phrase}", lines, reply.body)


def build_error(bad: BadRequest, source: tuple[str, int], to_tag: str) -> tuple[bytes, Via] | None:
    """The answer to a request that could not be read, from what can be echoed; None when not even a Via can be."""
    vias = split_values(bad.headers, "via")
    try:
        via = Via.parse(vias[0] if vias else "")
    except SipParseError:
        return None
    lines = [("Via", via.stamped(source)), *(("Via", value) for value in vias[1:])]
    for name, shown in (("from", "From"), ("to", "To"), ("call-id", "Call-ID"), ("cseq", "CSeq")):
        for value in bad.headers.get(name, ())[:1]:
            tagged = name != "to" or ";tag=" in value.lower()
            lines.append((shown, value if tagged else f"{value};tag={to_tag}"))
    phrase = REASON_PHRASES[bad.status]
    # RFC 3261 §21.4.1: the reason phrase should say what is wrong
    shown_reason = f"{phrase} ({bad})" if bad.status == 400 else phrase
    return serialize(f"SIP/2.0 {bad.status} {shown_reason}", lines), via
