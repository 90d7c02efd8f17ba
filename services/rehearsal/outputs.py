"""What the protocol cores ask their shell to do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

Frame: TypeAlias = dict[str, Any]
"""A JSON event, sent as one text frame."""


@dataclass(frozen=True, slots=True)
class Raw:
    """A frame that is not well-formed JSON, or not text at all: only faults send these."""

    data: str | bytes


@dataclass(frozen=True, slots=True)
class Close:
    """Close the WebSocket with this code (RFC 6455 §7.4)."""

    code: int
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Abort:
    """Drop the TCP connection without a closing handshake (the peer sees 1006)."""


Output: TypeAlias = Frame | Raw | Close | Abort
