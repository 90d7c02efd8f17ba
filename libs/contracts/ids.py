"""Ids that may stand in a subject: letters, digits, underscore and hyphen, time-sortable where it helps."""

from __future__ import annotations

import re

from ulid import ULID

TOKEN = re.compile(r"[A-Za-z0-9_-]+")


def is_token(text: str) -> bool:
    """Tell whether `text` may stand as one token of a subject."""
    return TOKEN.fullmatch(text) is not None


def check_token(text: str, what: str) -> str:
    """Return `text` if it may stand in a subject.

    Raises:
        ValueError: naming `what` it was meant to be.
    """
    if not is_token(text):
        raise ValueError(f"{what} {text!r} is not a subject token: only A-Z a-z 0-9 _ - are allowed")
    return text


def new_call_id() -> str:
    """A call id that sorts by time of creation (ULID, 26 characters)."""
    return str(ULID())


def new_process_id(role: str) -> str:
    """An id for a worker or gateway process, new at each start (R5): `wk-01J…`, `gw-01J…`."""
    return f"{check_token(role, 'role')}-{str(ULID()).lower()}"
