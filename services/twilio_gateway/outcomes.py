"""How Twilio's words for the end of an attempt map to one `Termination`. Pure."""

from __future__ import annotations

from libs.contracts.termination import Reason, Termination
from services.twilio_gateway.rest import TwilioError

# Twilio's error codes: 21211 invalid "To", 21214 and 21217 cannot be reached, 21401 and 21407 no telephone number;
# 21215 and 21216 not permitted for the account, 21219 not verified (trial account), 13227 no geographic permission.
INVALID_NUMBERS = frozenset({21211, 21214, 21217, 21401, 21407})
NOT_ALLOWED = frozenset({13227, 21215, 21216, 21219})
SIP_INVALID, SIP_DECLINED = frozenset({"404", "410", "484", "604"}), frozenset({"403", "603", "607"})


def end_of_request(error: TwilioError) -> Termination:
    """The REST API did not place the call."""
    detail = f"{error} (Twilio error {error.code})" if error.code else str(error)
    if error.code in INVALID_NUMBERS:
        return Termination.of(Reason.NUMBER_INVALID, detail)
    if error.code in NOT_ALLOWED:
        return Termination.of(Reason.NUMBER_NOT_ALLOWED, detail)
    return Termination.of(Reason.TRUNK_FAILED, detail)


def end_of_attempt(status: str, sip_code: str) -> Termination:
    """`CallStatus` of a call that was never answered; `sip_code` is the carrier's answer, where there was one."""
    detail = f"Twilio: {status}" + (f", SIP {sip_code}" if sip_code else "")
    if status == "busy":
        return Termination.of(Reason.CALLEE_BUSY, detail)
    if status == "no-answer":
        return Termination.of(Reason.CALLEE_NO_ANSWER, detail)
    if sip_code in SIP_INVALID:
        return Termination.of(Reason.NUMBER_INVALID, detail)
    if sip_code in SIP_DECLINED:
        return Termination.of(Reason.CALLEE_DECLINED, detail)
    return Termination.of(Reason.TRUNK_FAILED, detail)


def end_of_dial(status: str) -> tuple[bool, int | None, str]:
    """`DialCallStatus` of a transfer: whether there was a conversation, its SIP status, a word for people."""
    if status in ("completed", "answered"):
        return True, 200, "answered"
    return False, {"busy": 486, "no-answer": 480, "canceled": 487}.get(status), status or "no status"
