"""What a final response to a call of ours means for its record."""

import pytest

from libs.contracts.termination import Reason
from services.sip_gateway.outcomes import is_worth_another_server, termination_of


@pytest.mark.parametrize(
    ("statuses", "reason"),
    [
        ((301, 404, 410, 414, 416, 484, 485, 604), Reason.NUMBER_INVALID),
        ((486, 600), Reason.CALLEE_BUSY),
        ((408, 480, 487), Reason.CALLEE_NO_ANSWER),
        ((433, 603, 607, 608), Reason.CALLEE_DECLINED),
        ((415, 488, 606), Reason.NO_COMMON_CODEC),
        ((300, 302, 305, 380, 400, 401, 402, 403, 405, 407, 420, 422, 482, 483, 493), Reason.TRUNK_FAILED),
        ((500, 501, 502, 503, 504, 513, 580, 699), Reason.TRUNK_FAILED),
    ],
)
def test_every_status_has_its_reason(statuses, reason):
    for status in statuses:
        assert termination_of(status, "Some Words", {}).reason is reason, status


def test_all_statuses_have_one():
    assert all(termination_of(status, "", {}).detail for status in range(300, 700))


@pytest.mark.parametrize(
    ("status", "cause", "reason"),
    [
        (503, 17, Reason.CALLEE_BUSY),
        (480, 17, Reason.CALLEE_BUSY),
        (500, 28, Reason.NUMBER_INVALID),
        (403, 21, Reason.CALLEE_DECLINED),
        (503, 38, Reason.TRUNK_FAILED),
        (486, 19, Reason.CALLEE_BUSY),
    ],
)
def test_the_cause_of_the_telephone_network_says_more_than_a_vague_status(status, cause, reason):
    headers = {"reason": [f'SIP;cause={status}, Q.850;cause={cause};text="whatever"']}
    found = termination_of(status, "x", headers)
    assert found.reason is reason
    assert f"Q.850 cause {cause}" in found.detail


def test_a_redirection_is_told_and_not_followed():
    found = termination_of(302, "Moved Temporarily", {"contact": ["<sip:+4930999@elsewhere.example;x=1>;q=0.5"]})
    assert found.reason is Reason.TRUNK_FAILED
    assert found.detail == (
        "302 Moved Temporarily; moved to sip:+4930999@elsewhere.example, redirections are not followed"
    )


def test_only_failures_of_a_server_are_worth_another_one():
    assert [s for s in (403, 404, 486, 500, 501, 502, 503, 504, 580, 603) if is_worth_another_server(s)] == [
        500, 502, 503, 504,
    ]  # fmt: skip
