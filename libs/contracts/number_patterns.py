"""Patterns of dialled numbers, as a route's `match` lists them.

Three forms: `+493012345678` (or a SIP user) is exact, `+4930*` is a prefix (`*` alone serves everything), and
`~\\+49(30|40)[0-9]{4,8}` is a regular expression that the whole number must fit.

A regular expression is matched by backtracking, whose work can grow exponentially with the number. So a pattern is
measured when it is read: the ways in which it can be tried against `LONGEST_NUMBER` characters are bounded by a
product over its parts, and a pattern above `MOST_WAYS` is refused.
"""

from __future__ import annotations

import re
from functools import lru_cache
from re import _parser as syntax  # type: ignore[attr-defined]  # the parsed form has no public name
from typing import Any

E164 = re.compile(r"\+[1-9][0-9]{4,14}")
LONGEST_NUMBER = 64
LONGEST_PATTERN = 128
MOST_WAYS = 10_000  # two open ends (.*) in one pattern; the worst such match takes about a millisecond

EXACT, EXPRESSION, PREFIX = 3, 2, 1
"""Which form of pattern is the more specific; see `specificity`."""


class PatternError(ValueError):
    """What is wrong with a pattern, in one sentence."""


class _Unmeasured(Exception):
    """A part whose work is not bounded here."""


def check(pattern: str) -> None:
    """Accept a pattern.

    Raises:
        PatternError: it can never fit, is no regular expression (with the position), or could take too long.
    """
    if not pattern:
        raise PatternError("a pattern is empty; '*' serves every number")
    if len(pattern) > LONGEST_PATTERN:
        raise PatternError(f"the pattern has {len(pattern)} characters; at most {LONGEST_PATTERN} are taken")
    if pattern.startswith("~"):
        _compiled(pattern[1:])
    elif "*" in pattern[:-1]:
        raise PatternError(f"{pattern!r} has a '*' before its end; write a regular expression, which begins with '~'")


def specificity(pattern: str, number: str) -> tuple[int, int] | None:
    """How exactly a pattern names a number; None when it does not fit.

    Greater is more specific: an exact pattern before a regular expression, that before a prefix, and of two prefixes
    the longer one.
    """
    if pattern.startswith("~"):
        fits = len(number) <= LONGEST_NUMBER and _compiled(pattern[1:]).fullmatch(number)
        return (EXPRESSION, 0) if fits else None
    if pattern.endswith("*"):
        return (PREFIX, len(pattern) - 1) if number.startswith(pattern[:-1]) else None
    return (EXACT, 0) if pattern == number else None


@lru_cache(maxsize=4096)
def _compiled(expression: str) -> re.Pattern[str]:
    try:
        parsed = syntax.parse(expression)
        compiled = re.compile(expression)
    except re.error as error:
        at = "" if error.pos is None else f" at character {error.pos + 2}"  # counted from one, the ~ included
        raise PatternError(f"'~{expression}' is no regular expression: {error.msg}{at}") from None
    except (OverflowError, RecursionError):
        raise PatternError(f"'~{expression}' is no regular expression that can be taken") from None
    try:
        ways = _ways(parsed)
    except _Unmeasured as part:
        what = str(part).lower().replace("_", " ")
        raise PatternError(f"'~{expression}' holds what no number needs ({what})") from None
    if ways > MOST_WAYS:
        raise PatternError(
            f"'~{expression}' could take too long to match: at most two open ends (.* or [0-9]+), and none of them "
            "inside another or around alternatives"
        )
    return compiled


def _ways(parsed: Any) -> float:
    """An upper bound of the ways in which backtracking can try a sequence of parts."""
    ways = 1.0
    for kind, detail in parsed:
        ways *= _ways_of(str(kind), detail)
        if ways > MOST_WAYS:
            break
    return ways


def _ways_of(kind: str, detail: Any) -> float:
    match kind:
        case "LITERAL" | "NOT_LITERAL" | "ANY" | "IN" | "AT":
            return 1
        case "SUBPATTERN":
            return _ways(detail[-1])
        case "BRANCH":
            return sum(map(_ways, detail[1]))
        case "MAX_REPEAT" | "MIN_REPEAT":
            least, most, part = detail
            once, most = _ways(part), min(int(most), LONGEST_NUMBER)
            if once > 1 and most > MOST_WAYS.bit_length():
                return float("inf")
            return sum(once**times for times in range(min(int(least), most), most + 1))
        case _:  # references to groups, looking around, conditions
            raise _Unmeasured(kind)
