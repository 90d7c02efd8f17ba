"""A call that outlives its model sessions, over real processes and RTP. The full length: `tests.load.rotation`."""

from __future__ import annotations

import pytest

from tests.load.rotation import hold_call


@pytest.mark.timeout(90)
async def test_a_call_crosses_three_rotations_without_losing_context_or_audio() -> None:
    outcome = await hold_call(session_s=8.0, call_s=22.0, spares=0)
    assert outcome.rotated >= 3, outcome
    assert (outcome.forced, outcome.reconnected, outcome.client_errors) == (0, 0, 0), outcome
    assert outcome.missing == (), outcome
    assert outcome.lost_ms <= 200, outcome
