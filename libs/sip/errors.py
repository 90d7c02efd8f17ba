"""Errors of the SIP core. Parsers raise one precise sentence; `reason` is the word it is counted under."""

from __future__ import annotations


class SipError(ValueError):
    """Something the peer sent, or we were asked to send, is not SIP as the RFCs have it."""


class SipParseError(SipError):
    """A datagram, header or URI that cannot be read. `reason` names the counter."""

    def __init__(self, message: str, reason: str = "malformed") -> None:
        super().__init__(message)
        self.reason = reason


class SipStateError(RuntimeError):
    """A command that the state of the dialog or transaction does not allow; nothing was changed."""


class SdpError(SipError):
    """A session description that cannot be read or does not fit its offer."""


class NoCommonCodec(SdpError):
    """Offer and local media share no codec: 488 Not Acceptable Here (RFC 3264 §6, RFC 3261 §13.3.1.3)."""
