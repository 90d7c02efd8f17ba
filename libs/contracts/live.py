"""What passes by while somebody follows a call live: never stored, never in the event stream.

A watcher renews a lease (`libs.contracts.commands.Listen`); while one lives `CallState.watched` is true, and the worker
publishes these on `v1.<org>.live.<call>.partial`, on core NATS, dropped while the bus is away.
"""

from __future__ import annotations

from typing import Literal

from pydantic import AwareDatetime

from libs.contracts.model import Message

PARTIAL = "partial"
MOST_CHARACTERS = 2000


class PartialTranscript(Message):
    """What one side has said so far in a turn that is not over.

    `text` is all of it, not what is new, so that one that was lost does no harm; of a very long turn its last
    `MOST_CHARACTERS`. The agent's runs ahead of its sound: what was heard in the end stands in `agent.turn`.
    """

    kind: Literal["partial"] = "partial"
    org: str
    call: str
    epoch: int
    at: AwareDatetime
    speaker: Literal["caller", "agent"]
    item: str  # as in `caller.turn` and `agent.turn`
    text: str
