"""The final response to a call of ours as the one `Termination` that its record has. No I/O.

403 is the trunk's: providers send it for a caller id that is not ours, an empty account, a barred destination; callees
decline with 603. Redirections (3xx) are not followed: a fence that lets a target redirect us is none.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from libs.contracts.termination import Reason, Termination

_BY_STATUS = {
    **dict.fromkeys((404, 410, 414, 416, 484, 485, 604), Reason.NUMBER_INVALID),
    **dict.fromkeys((486, 600), Reason.CALLEE_BUSY),
    **dict.fromkeys((408, 480, 487), Reason.CALLEE_NO_ANSWER),
    **dict.fromkeys((433, 603, 607, 608), Reason.CALLEE_DECLINED),
    **dict.fromkeys((415, 488, 606), Reason.NO_COMMON_CODEC),
    301: Reason.NUMBER_INVALID,  # moved for good: the number is another now
}
# ITU-T Q.850, said in a Reason header (RFC 3326) by gateways whose own status says less
_BY_CAUSE = {
    1: Reason.NUMBER_INVALID, 17: Reason.CALLEE_BUSY, 18: Reason.CALLEE_NO_ANSWER, 19: Reason.CALLEE_NO_ANSWER,
    20: Reason.CALLEE_NO_ANSWER, 21: Reason.CALLEE_DECLINED, 22: Reason.NUMBER_INVALID, 28: Reason.NUMBER_INVALID,
}  # fmt: skip
_CAUSE = re.compile(r"q\.850\s*;(?:[^,]*;)?\s*cause\s*=\s*([0-9]{1,3})", re.IGNORECASE)
_CONTACT = re.compile(r"<?((?:sips?|tel):[^>;,\s]{1,100})", re.IGNORECASE)
# what says no more than "it did not work": a cause beside it says more
_VAGUE = frozenset({403, 480, 500, 502, 503, 504, 580})
LONGEST = 200


def said(text: str) -> str:
    """What a peer wrote, as it may stand in a record: printable and of bounded length."""
    return "".join(filter(str.isprintable, text[:LONGEST]))


def termination_of(status: int, reason: str, headers: Mapping[str, list[str]]) -> Termination:
    """What a 3xx to 6xx means for the call. `headers` has lower-case names."""
    detail = f"{status} {said(reason)}".strip()
    if 300 <= status < 400:
        to = _CONTACT.search(", ".join(headers.get("contact", ())))
        detail += f"; moved to {to[1]}" if to else ""
        detail += ", redirections are not followed"
    cause = _CAUSE.search(", ".join(headers.get("reason", ())))
    by_cause = _BY_CAUSE.get(int(cause[1])) if cause is not None else None
    if cause is not None:
        detail += f" (Q.850 cause {cause[1]})"
    if by_cause is not None and (status in _VAGUE or status not in _BY_STATUS):
        return Termination.of(by_cause, detail)
    return Termination.of(_BY_STATUS.get(status, Reason.TRUNK_FAILED), detail)


def is_worth_another_server(status: int) -> bool:
    """Whether the trunk's next server may do better (RFC 3263 §4.3; providers say 5xx where 503 is meant)."""
    return 500 <= status < 600 and status not in (501, 505, 513, 580)
