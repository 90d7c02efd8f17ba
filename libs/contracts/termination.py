"""How a call ended: the single taxonomy, and beside it the closed set of business outcomes.

A `Termination` answers "whose doing?"; an `Outcome` answers "what came of it?". The reason fixes the
result, so that the two can never disagree. After livekit/sip's termination table.
"""

from __future__ import annotations

from enum import StrEnum

from pydantic import BaseModel, ConfigDict, model_validator


class Result(StrEnum):
    """Whose doing the end was."""

    SUCCESS = "success"  # the call came to a proper end
    CLIENT = "client"  # the caller's side: gave up, sent what cannot be served, vanished
    SERVER = "server"  # ours: configuration, capacity, a defect
    UPSTREAM = "upstream"  # the model's provider or the trunk
    INDETERMINATE = "indeterminate"  # nobody was left to say


class Reason(StrEnum):
    """The ways a call can end; each belongs to exactly one `Result`."""

    CALLER_HUNG_UP = "caller_hung_up"
    CALLEE_HUNG_UP = "callee_hung_up"
    AGENT_HUNG_UP = "agent_hung_up"
    OPERATOR_HUNG_UP = "operator_hung_up"
    MAX_DURATION = "max_duration"
    TRANSFERRED = "transferred"
    FALLBACK_PLAYED = "fallback_played"
    ANSWERING_MACHINE = "answering_machine"
    CALLER_SILENT = "caller_silent"

    CALLER_CANCELLED = "caller_cancelled"
    NO_COMMON_CODEC = "no_common_codec"
    MALFORMED_OFFER = "malformed_offer"
    NO_ACK = "no_ack"
    RTP_TIMEOUT = "rtp_timeout"
    CALLEE_BUSY = "callee_busy"
    CALLEE_NO_ANSWER = "callee_no_answer"
    CALLEE_DECLINED = "callee_declined"
    NUMBER_INVALID = "number_invalid"
    NUMBER_NOT_ALLOWED = "number_not_allowed"
    NOT_AUTHENTICATED = "not_authenticated"
    OPERATOR_DECLINED = "operator_declined"
    NOT_ACCEPTED = "not_accepted"
    OUTSIDE_HOURS = "outside_hours"

    NO_ROUTE = "no_route"
    UNKNOWN_AGENT = "unknown_agent"
    NO_WORKER = "no_worker"
    AT_CAPACITY = "at_capacity"
    TOO_MANY_ATTEMPTS = "too_many_attempts"
    BUDGET_SPENT = "budget_spent"
    DRAINING = "draining"
    NOT_READY = "not_ready"
    WORKER_LOST = "worker_lost"
    GATEWAY_LOST = "gateway_lost"
    INTERNAL_ERROR = "internal_error"

    MODEL_REFUSED = "model_refused"
    MODEL_UNREACHABLE = "model_unreachable"
    MODEL_FAILED = "model_failed"
    TRUNK_FAILED = "trunk_failed"

    LOST = "lost"


_RESULTS: dict[Result, tuple[Reason, ...]] = {
    Result.SUCCESS: (
        Reason.CALLER_HUNG_UP,
        Reason.CALLEE_HUNG_UP,
        Reason.AGENT_HUNG_UP,
        Reason.OPERATOR_HUNG_UP,
        Reason.MAX_DURATION,
        Reason.TRANSFERRED,
        Reason.FALLBACK_PLAYED,
        Reason.ANSWERING_MACHINE,
        Reason.CALLER_SILENT,
    ),
    Result.CLIENT: (
        Reason.CALLER_CANCELLED,
        Reason.NO_COMMON_CODEC,
        Reason.MALFORMED_OFFER,
        Reason.NO_ACK,
        Reason.RTP_TIMEOUT,
        Reason.CALLEE_BUSY,
        Reason.CALLEE_NO_ANSWER,
        Reason.CALLEE_DECLINED,
        Reason.NUMBER_INVALID,
        Reason.NUMBER_NOT_ALLOWED,
        Reason.NOT_AUTHENTICATED,
        Reason.OPERATOR_DECLINED,
        Reason.NOT_ACCEPTED,
        Reason.OUTSIDE_HOURS,
    ),
    Result.SERVER: (
        Reason.NO_ROUTE,
        Reason.UNKNOWN_AGENT,
        Reason.NO_WORKER,
        Reason.AT_CAPACITY,
        Reason.TOO_MANY_ATTEMPTS,
        Reason.BUDGET_SPENT,
        Reason.DRAINING,
        Reason.NOT_READY,
        Reason.WORKER_LOST,
        Reason.GATEWAY_LOST,
        Reason.INTERNAL_ERROR,
    ),
    Result.UPSTREAM: (
        Reason.MODEL_REFUSED,
        Reason.MODEL_UNREACHABLE,
        Reason.MODEL_FAILED,
        Reason.TRUNK_FAILED,
    ),
    Result.INDETERMINATE: (Reason.LOST,),
}
RESULT_OF: dict[Reason, Result] = {reason: result for result, reasons in _RESULTS.items() for reason in reasons}


class Termination(BaseModel):
    """The one end of a call: `result` follows from `reason`; `detail` is a sentence for people."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    result: Result
    reason: Reason
    detail: str = ""

    @classmethod
    def of(cls, reason: Reason, detail: str = "") -> Termination:
        """Build from the reason alone."""
        return cls(result=RESULT_OF[reason], reason=reason, detail=detail)

    @model_validator(mode="after")
    def _result_follows_reason(self) -> Termination:
        if RESULT_OF[self.reason] is not self.result:
            raise ValueError(f"reason {self.reason} belongs to result {RESULT_OF[self.reason]}, not {self.result}")
        return self


class Outcome(StrEnum):
    """What came of a call for the business; closed on purpose."""

    ORDERED = "ordered"
    TRANSFERRED = "transferred"
    MESSAGE = "message"
    ANSWERED = "answered"
    ABANDONED = "abandoned"
    NO_AGENT = "no_agent"
    FAILED = "failed"
