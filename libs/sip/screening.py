"""What a request must satisfy before anything acts on it, in the order of RFC 3261 §8.2, and the body of an INFO."""

from __future__ import annotations

import re
from dataclasses import dataclass

from libs.sip.message import Reply, Request

METHODS = ("INVITE", "ACK", "CANCEL", "BYE", "OPTIONS", "INFO", "UPDATE", "REFER", "NOTIFY")
ALLOW = ", ".join(METHODS)
# what a caller may require of us (RFC 3261 §8.2.2.3)
EXTENSIONS = ("timer",)
# registered methods that we know and do not serve get 405, the rest 501 (RFC 3261 §8.2.1, §21.5.2)
_KNOWN_METHODS = frozenset({"REGISTER", "SUBSCRIBE", "MESSAGE", "PRACK", "PUBLISH"})
_SDP = "application/sdp"
_DTMF_TYPES = ("application/dtmf-relay", "application/dtmf")
_DIGIT = re.compile(r"[0-9A-D*#]\Z")
_SIGNAL = re.compile(r"^\s*signal\s*=\s*(\S+)\s*$", re.IGNORECASE | re.MULTILINE)
_DURATION = re.compile(r"^\s*duration\s*=\s*([0-9]{1,5})\s*$", re.IGNORECASE | re.MULTILINE)
_EVENT_CODES = {"10": "*", "11": "#", "12": "A", "13": "B", "14": "C", "15": "D"}


@dataclass(frozen=True, slots=True)
class Digit:
    """One digit of an INFO; `duration_ms` is 0 when it was not said."""

    digit: str
    duration_ms: int = 0


def content_type(request: Request) -> str:
    """Media type of the body in lower case without parameters, "" without a body."""
    if not request.body:
        return ""
    return request.header("content-type").partition(";")[0].strip().lower() or "application/octet-stream"


def sdp_of(request: Request) -> str:
    """The session description in the body, "" when there is none."""
    return request.body.decode("utf-8", "replace") if content_type(request) == _SDP else ""


def screen(request: Request) -> Reply | None:
    """Method, scheme, Require and body, in this order; None when the request may be served."""
    if request.method not in METHODS:
        status = 405 if request.method in _KNOWN_METHODS else 501
        return Reply(status, (("Allow", ALLOW),))
    if request.uri.scheme not in ("sip", "sips", "tel"):
        return Reply(416)
    if request.method in ("ACK", "CANCEL"):
        return None  # RFC 3261 §8.2.2.3: Require is ignored in both
    required = [tag for tag in request.values("require") if tag.lower() not in EXTENSIONS]
    if required:
        return Reply(420, (("Unsupported", ", ".join(required)),))
    # §8.2.3: only what must be understood counts
    if request.body and "handling=optional" not in request.header("content-disposition").replace(" ", "").lower():
        return _screen_body(request)
    return None


def _screen_body(request: Request) -> Reply | None:
    if request.header("content-encoding").lower() not in ("", "identity"):
        return Reply(415, (("Accept-Encoding", "identity"),))
    kind = content_type(request)
    if request.method in ("INVITE", "UPDATE") and kind != _SDP:
        return Reply(415, (("Accept", _SDP),))
    if request.method == "INFO" and kind not in _DTMF_TYPES:
        return Reply(415, (("Accept", ", ".join(_DTMF_TYPES)),))
    return None


def parse_dtmf_info(request: Request) -> Digit | None:
    """The digit of a dtmf-relay (`Signal=5`, `Duration=160`) or dtmf (`5`) body; None when there is none."""
    text = request.body[:200].decode("ascii", "replace")
    relay = content_type(request) == _DTMF_TYPES[0]
    signal = _SIGNAL.search(text) if relay else None
    found = signal[1] if signal else "" if relay else text.strip()
    digit = _EVENT_CODES.get(found, found).upper()
    if not _DIGIT.match(digit):
        return None
    duration = _DURATION.search(text)
    return Digit(digit, int(duration[1]) if duration else 0)
