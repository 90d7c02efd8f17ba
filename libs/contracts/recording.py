"""What a gateway and a recorder say to each other (`v1.rpc.recorder.record`, request-reply in a queue group).

The recorder that accepts subscribes to the call's audio, then renews its lease with `Listen(is_recorder=True)` until
the leg says that the recording is over. One that vanishes loses its lease, and the gateway asks again.
"""

from __future__ import annotations

from pydantic import AwareDatetime

from libs.contracts.model import Message


class RecordRequest(Message):
    """Record this call from now on."""

    call: str
    org: str
    gw: str
    rate_hz: int
    answered_at: AwareDatetime


class RecordReply(Message):
    """`by` is the recorder's process id; a refusal names its reason."""

    accepted: bool
    by: str
    reason: str = ""
