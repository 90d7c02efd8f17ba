"""Tools of MCP servers: on the record, failures as trouble, approvals refused, an answer asked for."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from libs.contracts.agent import AgentConfig, McpServer
from services.ai_session.backends.port import (
    ResponseEnded,
    ServerToolBegan,
    ServerToolEnded,
    Trouble,
)
from services.ai_session.backends.realtime_events import RealtimeEvents
from services.ai_session.backends.realtime_mcp import AnswerDue, ApprovalAsked
from services.ai_session.backends.responses import VAD_GRACE_S, Responses
from services.ai_session.costs import load
from services.ai_session.server_tools import ServerTools
from services.ai_session.settings import BUILT_IN_MODELS
from services.rehearsal.validation import validate_client_event
from tests.unit.ai_session.fake_model import configured, fake_model
from tests.unit.ai_session.test_realtime import events_of, of_kind
from tests.unit.ai_session.test_session_reconnects import a_call

AGENT = AgentConfig(name="unit", prompt="Be kind.", mcp=(McpServer(label="crm", url="https://crm.example/mcp"),))
CALL = {"type": "mcp_call", "id": "m1", "name": "find", "server_label": "crm", "arguments": '{"id": 7}'}


def reader():
    return RealtimeEvents(load(BUILT_IN_MODELS), "gpt-realtime-2.1", "gpt-transcribe", lambda data: data)


def read(events, kind, **fields):
    return events.read(json.dumps({"type": kind, **fields}).encode())


def done(events, *output):
    return read(events, "response.done", response={"id": "r", "status": "completed", "output": list(output)})


def test_a_call_and_its_result_are_told_once():
    events = reader()
    assert read(events, "response.output_item.added", response_id="r", item={**CALL, "arguments": ""}) == []
    assert read(events, "response.mcp_call.in_progress", item_id="m1", output_index=0) == []
    assert read(events, "response.output_item.done", response_id="r", item=CALL) == [
        ServerToolBegan("r", "m1", "crm__find", '{"id": 7}')
    ]
    assert read(events, "response.mcp_call.completed", item_id="m1", output_index=0) == []
    finished = {**CALL, "output": '{"name": "Weber"}'}
    assert read(events, "conversation.item.done", item=finished) == [
        ServerToolEnded("m1", "crm__find", True, {"name": "Weber"}),
        AnswerDue(),
    ]
    assert read(events, "conversation.item.done", item=finished) == []


def test_a_failed_call_is_trouble_and_its_reason_reaches_the_record():
    events = reader()
    error = {"type": "tool_execution_error", "message": "no such customer"}
    assert read(events, "response.output_item.done", response_id="r", item={**CALL, "error": error}) == [
        ServerToolBegan("r", "m1", "crm__find", '{"id": 7}'),
        ServerToolEnded("m1", "crm__find", False, {"error": "no such customer"}),
        Trouble("mcp_call_failed", "crm__find: no such customer"),
        AnswerDue(),
    ]
    other = reader()
    read(other, "response.output_item.done", response_id="r", item=CALL)
    failed = read(other, "response.mcp_call.failed", item_id="m1", output_index=0)
    assert failed[0] == ServerToolEnded("m1", "crm__find", False, {"error": "the call failed"})
    assert read(other, "response.mcp_call.failed", item_id="unknown", output_index=0) == []


def test_an_answer_is_due_when_the_response_ends_without_words_after_the_call():
    events = reader()
    read(events, "response.output_item.done", response_id="r", item=CALL)
    read(events, "response.mcp_call.completed", item_id="m1", output_index=0)
    ended = done(events, CALL)
    assert [type(event) for event in ended] == [ServerToolEnded, AnswerDue, ResponseEnded]
    spoken = reader()
    read(spoken, "response.output_item.done", response_id="r", item={**CALL, "output": "x"})
    assert AnswerDue() not in done(spoken, CALL, {"type": "message", "id": "i"})


def test_tools_that_were_not_listed_are_trouble():
    events = reader()
    read(events, "conversation.item.added", item={"type": "mcp_list_tools", "id": "l1", "server_label": "crm"})
    assert read(events, "mcp_list_tools.failed", item_id="l1") == [
        Trouble("mcp_list_tools_failed", "the MCP server 'crm' did not tell its tools")
    ]


def test_an_approval_is_asked_for_once_and_is_no_call():
    events = reader()
    asked = {**CALL, "type": "mcp_approval_request", "id": "a1"}
    assert read(events, "conversation.item.added", item=asked)[0] == ApprovalAsked("a1")
    assert read(events, "conversation.item.done", item=asked) == []


def test_the_server_may_answer_by_itself_before_it_is_asked_to():
    responses = Responses()
    responses.created("r1", None)
    assert responses.done("r1", 1.0) is None
    assert responses.answer_due(1.0) is None
    responses.created("r2", {})
    assert responses.done("r2", 1.5) is None
    assert responses.tick(9.0) is None
    assert responses.answer_due(10.0) is None
    assert responses.tick(10.0 + VAD_GRACE_S) is not None  # nothing came


async def test_a_call_of_an_mcp_tool_is_recorded_answered_and_needs_no_approval(server):
    async def react(model, socket, event):
        await configured(model, socket, event)
        if event["type"] == "session.update":
            await socket.send_json({"type": "response.created", "response": {"id": "r1"}})
            item = {**CALL, "output": '{"name": "Weber"}'}
            await socket.send_json({"type": "response.output_item.done", "response_id": "r1", "item": item})
            asked = {**CALL, "type": "mcp_approval_request", "id": "mcpr_1"}
            await socket.send_json({"type": "conversation.item.added", "item": asked})
            done = {"id": "r1", "status": "completed", "output": [item]}
            await socket.send_json({"type": "response.done", "response": done})

    async with fake_model(react) as model, a_call(server, model, AGENT) as (worker, leg):
        await leg.until_ready()
        await leg.run_until(lambda: model.of_type("response.create"))
        record = await events_of(worker, leg)
        called, returned = of_kind(record, "tool.called")[0], of_kind(record, "tool.returned")[0]
        assert (called.name, called.arguments) == ("crm__find", {"id": 7})
        assert (returned.ok, returned.output) == (True, {"name": "Weber"})
        assert [trouble.code for trouble in of_kind(record, "session.trouble")] == ["mcp_approval_refused"]
        (refusal,) = model.of_type("conversation.item.create")
        validate_client_event(refusal)
        assert (refusal["item"]["approval_request_id"], refusal["item"]["approve"]) == ("mcpr_1", False)


@pytest.mark.parametrize("output", ["x" * 2_000_000, "\ud800", [[[float("nan")]]]])
def test_a_result_that_no_event_can_hold_is_a_sentence_on_the_record(output):
    put = []

    class Record:
        def put(self, kind, **fields):
            put.append(fields)

    ServerTools(Record(), Counter()).note(ServerToolEnded("c", "crm__find", True, output), 1.0)
    assert "crm__find" in put[0]["output"]["error"]
    assert len(put[0]["output"]["error"]) < 500
