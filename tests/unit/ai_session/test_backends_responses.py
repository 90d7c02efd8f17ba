"""When a response is asked for: refusals, marks, outputs that cross a response on the wire."""

from __future__ import annotations

import pytest

from services.ai_session.backends.responses import ALREADY_ACTIVE, ORIGIN, VAD_GRACE_S, Create, Refusal, Responses

OURS = {"origin": ORIGIN}


def after_a_tool_call():
    """A response called tool `t` and is over."""
    responses = Responses()
    responses.created("r1", None)
    responses.tool_called("r1", "t")
    responses.done("r1", 1.0)
    return responses


def test_a_greeting_under_way_is_not_asked_for_again_when_the_turn_detection_is_refused():
    responses = Responses()
    responses.ask("greeting", 0.0)
    responses.created("r1", OURS)
    responses.caller_speaks(True, 0.5)
    responses.caller_speaks(False, 1.0)
    assert responses.refused(ALREADY_ACTIVE, None, 1.0) is Refusal.SETTLED
    assert responses.done("r1", 3.0) == Create("create-2", None)  # the caller's turn is answered, once
    responses.created("r2", OURS)
    assert responses.done("r2", 5.0) is None


def test_a_refusal_that_crosses_our_own_beginning_repeats_nothing():
    responses = Responses()
    create = responses.ask("greeting", 0.0)
    responses.refused(ALREADY_ACTIVE, None, 0.1)  # of the turn detection, whose rival is our own request
    assert responses.created("r1", create.metadata)
    assert responses.done("r1", 3.0) is None
    assert responses.tick(9.0) is None


@pytest.mark.parametrize("event_id", [None, "create-1"])
def test_an_error_frees_the_way_and_counts_as_a_failed_response(event_id):
    responses = Responses()
    responses.ask("greeting", 0.0)
    assert responses.refused("rate_limit_exceeded", event_id, 0.1) is Refusal.FAILED
    assert not responses.is_waiting
    assert responses.ask("greeting", 0.6) == Create("create-2", "greeting")


def test_an_error_about_something_else_leaves_our_request_alone():
    responses = Responses()
    responses.ask("greeting", 0.0)
    assert responses.refused("item_not_found", "event-7", 0.1) is Refusal.ELSEWHERE
    assert responses.is_waiting
    responses.created("r1", OURS)
    assert responses.refused("server_error", None, 0.2) is Refusal.ELSEWHERE  # an answer is under way


def test_an_answer_that_the_server_owes_the_caller_and_refuses_is_a_failed_response():
    responses = Responses()
    responses.caller_speaks(True, 1.0)
    assert responses.refused("server_error", None, 1.5) is Refusal.ELSEWHERE  # the turn is not over
    responses.caller_speaks(False, 2.0)
    assert responses.refused("rate_limit_exceeded", None, 2.1) is Refusal.FAILED
    assert responses.refused("rate_limit_exceeded", None, 2.2) is Refusal.ELSEWHERE  # counted once


def test_an_unmarked_response_to_the_caller_is_not_taken_for_ours():
    responses = Responses()
    responses.caller_speaks(True, 0.0)
    responses.caller_speaks(False, 1.0)
    responses.ask("goodbye", 1.1)
    assert not responses.created("vad", None)
    assert responses.refused(ALREADY_ACTIVE, "create-1", 1.2) is Refusal.SETTLED
    assert responses.done("vad", 4.0) == Create("create-2", "goodbye")


def test_a_server_that_echoes_no_metadata_is_believed():
    responses = Responses()
    responses.ask("greeting", 0.0)
    assert responses.created("r1", None)
    responses.done("r1", 1.0)
    responses.caller_speaks(True, 2.0)
    responses.caller_speaks(False, 3.0)
    responses.ask("note", 3.1)
    assert not responses.created("r2", None)  # whose is it?
    assert responses.done("r2", 5.0) is None
    assert responses.ask("next", 5.1) is None
    assert responses.tick(5.0 + VAD_GRACE_S) == Create("create-3", "next")  # neither answer nor refusal came


def test_an_output_that_crosses_the_turn_detections_response_is_answered_after_it():
    responses = after_a_tool_call()
    responses.caller_speaks(True, 1.1)
    responses.caller_speaks(False, 2.0)
    assert responses.tool_output("t", 2.01) is None
    responses.created("vad", None)  # begun before the output arrived
    responses.output_seen("t")
    assert responses.done("vad", 4.0) == Create("create-1", None)


def test_a_refused_continuation_is_dropped_when_the_other_response_has_seen_the_outputs():
    responses = after_a_tool_call()
    assert responses.tool_output("t", 1.5) == Create("create-1", None)
    responses.output_seen("t")
    responses.created("vad", {"origin": "server"})
    assert responses.refused(ALREADY_ACTIVE, "create-1", 1.6) is Refusal.SETTLED
    assert responses.done("vad", 3.0) is None
    assert responses.tick(9.0) is None


def test_a_refused_continuation_is_repeated_when_the_other_response_has_not_seen_the_outputs():
    responses = after_a_tool_call()
    assert responses.tool_output("t", 1.5) == Create("create-1", None)
    responses.created("vad", {"origin": "server"})
    responses.output_seen("t")
    assert responses.refused(ALREADY_ACTIVE, "create-1", 1.6) is Refusal.SETTLED
    assert responses.done("vad", 2.0) is None
    assert responses.tick(1.6 + VAD_GRACE_S) == Create("create-2", None)
