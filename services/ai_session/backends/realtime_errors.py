"""Which errors of the Realtime and the Live API end a session, and whether another one would fare better. Pure.

The API reference says that a session normally stays open after an `error` event: what is not named here is survived.
"""

from __future__ import annotations

from services.ai_session.backends.port import BackendError, Lost
from services.ai_session.backends.realtime_events import ErrorReceived

FATAL = frozenset({"insufficient_quota", "invalid_api_key", "account_deactivated", "billing_hard_limit_reached"})
"""No session of this account will do any better."""

EXPIRED = "session_expired"
HARMLESS = frozenset({"response_cancel_not_active"})  # it ended while our cancellation was on its way
_TRANSIENT = frozenset({"rate_limit_exceeded", EXPIRED})  # whatever class of error they come as
_CLIENTS_FAULT = frozenset({"invalid_request_error", "authentication_error", "permission_error"})  # error.type
_POLICY = 1008


def loss(error: ErrorReceived) -> Lost | None:
    """What an `error` event of an open session takes away: nothing, the session, or the account."""
    if error.code in FATAL:
        return Lost(error.code, error.message, retry=False)
    if error.code == EXPIRED:
        return Lost(error.code, error.message or "the model's session reached its longest duration")
    return None


def closed(code: int | None, reason: str) -> Lost:
    """A connection that ended. Every close is a loss, 1000 and 1001 too: the call is not over.

    1008 is a refusal of what we are (a key, a policy) when its reason names a fatal code; else it may be tried again,
    as after 1011 and the application's own 4xxx.
    """
    if code is None:
        return Lost("closed_1006", "the model connection broke")
    detail = f"the model's server closed with {code}" + (f": {reason}" if reason else "")
    final = (code == _POLICY or code >= 4000) and any(fatal in reason for fatal in FATAL)
    return Lost(f"closed_{code}", detail, retry=not final)


def refused(error: ErrorReceived) -> BackendError:
    """An error event before the session was open: the client's fault is final, the server's is not."""
    what = error.message or error.code
    if error.code in FATAL or (error.kind in _CLIENTS_FAULT and error.code not in _TRANSIENT):
        return BackendError("refused", f"the model's server refused the session: {what}", retry=False)
    return BackendError("failed", f"the model's server did not open the session: {what}", retry=True)
