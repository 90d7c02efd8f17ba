"""What came of a call for the business. No I/O."""

from __future__ import annotations

from libs.contracts.termination import Outcome, Reason, Result, Termination

NO_AGENT = frozenset(
    {
        Reason.NO_ROUTE,
        Reason.UNKNOWN_AGENT,
        Reason.NO_WORKER,
        Reason.AT_CAPACITY,
        Reason.TOO_MANY_ATTEMPTS,
        Reason.BUDGET_SPENT,
        Reason.OPERATOR_DECLINED,
        Reason.NOT_ACCEPTED,
        Reason.OUTSIDE_HOURS,
        Reason.DRAINING,
        Reason.NOT_READY,
    }
)


def outcome_of(termination: Termination, *, answered: bool, ordered: bool) -> Outcome:
    """The one outcome of an ended call: what was achieved counts more than how it ended.

    A caller whose phone lost its network after ordering has ordered; one who cancelled before the agent
    answered has given up, whatever the trunk calls it.
    """
    reason = termination.reason
    if ordered:
        return Outcome.ORDERED
    if reason is Reason.TRANSFERRED:
        return Outcome.TRANSFERRED
    if reason is Reason.FALLBACK_PLAYED:
        return Outcome.MESSAGE
    if not answered and reason in NO_AGENT:
        return Outcome.NO_AGENT
    if reason is Reason.CALLER_CANCELLED:
        return Outcome.ABANDONED
    if termination.result is Result.SUCCESS:
        return Outcome.ANSWERED if answered else Outcome.ABANDONED
    return Outcome.FAILED
