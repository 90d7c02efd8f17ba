import json
from random import Random

import openai
import pytest
from hypothesis import given, strategies as st

from services.rehearsal.chat import Answer, PromptCache, deltas, turn_of
from services.rehearsal.chat_request import read_chat_request, schema_problem
from services.rehearsal.director import CallTool
from services.rehearsal.refusals import ApiError

from .http_client import LOUD, PRICE, http_client, openai_client, serving

SYSTEM = {"role": "system", "content": "Du bist ein Verkäufer.\n[scenario: loud]"}
ASKED = {"role": "user", "content": "Was kostet das?"}
CALL = {"id": "call_1", "type": "function", "function": {"name": "price", "arguments": '{"article": "4711"}'}}
CALLED = {"role": "assistant", "content": "Ich schaue nach.", "tool_calls": [CALL]}
RESULT = {"role": "tool", "tool_call_id": "call_1", "content": '{"eur": 3}'}
MODEL = "gpt-5.6-luna"


@pytest.fixture
async def rehearsal():
    async with serving() as server:
        yield server


async def streamed(client, messages, **options):
    """Text, calls by index, reason and usage of a streamed answer."""
    text, calls, reason, usage = "", {}, None, None
    options = {"model": MODEL, "stream_options": {"include_usage": True}, "tools": [PRICE], **options}
    async for chunk in await client.chat.completions.create(messages=messages, stream=True, **options):
        usage = chunk.usage or usage
        for choice in chunk.choices:
            text += choice.delta.content or ""
            reason = choice.finish_reason or reason
            for call in choice.delta.tool_calls or []:
                entry = calls.setdefault(call.index, {"id": call.id, "name": call.function.name, "arguments": ""})
                entry["arguments"] += call.function.arguments
    return text, calls, reason, usage


async def test_a_conversation_without_words_of_the_caller_begins_with_the_greeting(rehearsal):
    async with openai_client(rehearsal) as client:
        text, calls, reason, usage = await streamed(client, [SYSTEM])
    assert (text, calls, reason) == ("Guten Tag.", {}, "stop")
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens


async def test_a_turn_calls_its_tool_and_then_answers_with_the_result(rehearsal):
    async with openai_client(rehearsal) as client:
        text, calls, reason, _ = await streamed(client, [SYSTEM, ASKED])
        assert (text, reason) == ("Ich schaue nach.", "tool_calls")
        assert (calls[0]["name"], json.loads(calls[0]["arguments"])) == ("price", {"article": "4711"})
        text, calls, reason, _ = await streamed(client, [SYSTEM, ASKED, CALLED, RESULT])
        assert (text, calls, reason) == ("Es kostet 3 Euro. Noch etwas?", {}, "stop")


async def test_the_whole_answer_at_once_says_the_same(rehearsal):
    async with openai_client(rehearsal) as client:
        completion = await client.chat.completions.create(model=MODEL, messages=[SYSTEM, ASKED], tools=[PRICE])
    choice = completion.choices[0]
    assert (choice.message.content, choice.finish_reason) == ("Ich schaue nach.", "tool_calls")
    assert choice.message.tool_calls[0].function.name == "price"
    assert completion.usage.completion_tokens > 0


async def test_without_the_tool_the_scenario_goes_on_without_it(rehearsal):
    async with openai_client(rehearsal) as client:
        text, calls, _, _ = await streamed(client, [SYSTEM, ASKED], tool_choice="none")
    assert (text, calls) == ("Es kostet Euro. Noch etwas?", {})


async def test_after_a_barge_in_only_what_was_not_heard_is_left_to_say(rehearsal):
    heard = {"role": "assistant", "content": "Es kostet 3 Euro."}
    async with openai_client(rehearsal) as client:
        text, *_ = await streamed(client, [SYSTEM, ASKED, CALLED, RESULT, heard])
    assert text == "Noch etwas?"


async def test_a_sentence_to_be_said_word_for_word_is_said(rehearsal):
    wish = {"role": "system", "content": 'Say exactly the following, word for word: "Auf Wiederhören."'}
    async with openai_client(rehearsal) as client:
        text, *_ = await streamed(client, [SYSTEM, ASKED, wish])
    assert text == "Auf Wiederhören."


async def test_what_is_added_to_the_system_message_is_for_this_answer(rehearsal):
    wish = {**SYSTEM, "content": f"{SYSTEM['content']}\n\nThe line was interrupted: carry on where you stopped."}
    heard = {"role": "assistant", "content": "Es kostet 3 Euro."}
    async with openai_client(rehearsal) as client:
        await streamed(client, [SYSTEM, ASKED], prompt_cache_key="call-1")
        text, *_ = await streamed(client, [wish, ASKED, CALLED, RESULT, heard], prompt_cache_key="call-1")
        assert text == f"{LOUD.resumed} Noch etwas?"
        text, *_ = await streamed(client, [SYSTEM, ASKED, CALLED, RESULT], prompt_cache_key="call-1")
    assert text == "Es kostet 3 Euro. Noch etwas?"


def test_a_history_without_its_beginning_is_still_at_the_right_turn():
    assert turn_of(LOUD, [SYSTEM, {"role": "user", "content": "Nein  danke."}]) == 2
    assert turn_of(LOUD, [SYSTEM, {"role": "user", "content": "Was kostet das?\nNein danke."}]) == 2
    assert turn_of(LOUD, [SYSTEM, {"role": "user", "content": "Etwas anderes."}]) == 1
    assert turn_of(LOUD, [SYSTEM]) == 0


async def test_tokens_beyond_the_bound_are_cut_with_the_reason_length(rehearsal):
    async with openai_client(rehearsal) as client:
        text, _, reason, usage = await streamed(client, [SYSTEM, ASKED], tools=[PRICE], max_completion_tokens=2)
    assert (len(text), reason, usage.completion_tokens) == (8, "length", 2)


def test_a_prompt_seen_before_is_counted_as_cached():
    cache, long = PromptCache(), {"role": "system", "content": "x" * 8000}
    body = {"model": MODEL, "messages": [long, ASKED]}
    first = cache.usage(read_chat_request(body), Answer("Ja."))
    again = cache.usage(read_chat_request({**body, "messages": [long, ASKED, CALLED, RESULT]}), Answer("Ja."))
    assert first["prompt_tokens_details"]["cached_tokens"] == 0
    assert first["prompt_tokens"] - 128 < again["prompt_tokens_details"]["cached_tokens"] <= first["prompt_tokens"]


@given(st.text(max_size=60), st.text(max_size=30), st.integers())
def test_deltas_put_together_are_the_answer(text, arguments, seed):
    made = Answer(text, (("call_1", CallTool("price", arguments)),))
    parts = [delta for delta, _ in deltas(made, Random(seed))]
    assert "".join(part.get("content") or "" for part in parts) == text
    calls = [call for part in parts for call in part.get("tool_calls", ())]
    assert "".join(call["function"]["arguments"] for call in calls) == arguments
    assert calls[0]["id"] == "call_1"
    assert all("id" not in call for call in calls[1:])


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "caller", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": "x", "audio": 1}]}, "messages[0].audio"),
        ({"messages": [{"role": "assistant", "content": None}]}, "messages[0].content"),
        ({"messages": [ASKED, CALLED]}, "messages.[2].role"),
        ({"messages": [ASKED, CALLED, ASKED]}, "messages.[2].role"),
        ({"messages": [ASKED, RESULT]}, "messages.[1].role"),
        ({"messages": [ASKED, CALLED, RESULT, RESULT]}, "messages.[3].role"),
        ({"temprature": 1}, "temprature"),
        ({"temperature": "warm"}, "temperature"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"tools": []}, "tools"),
        ({"tools": [{"type": "function", "function": {"name": "an order"}}]}, "tools[0].function.name"),
        ({"tools": [{"type": "function", "name": "flat"}]}, "tools[0].function"),
        (
            {"tools": [{"type": "function", "function": {"name": "x", "parameters": {"type": "string"}}}]},
            "tools[0].function.parameters",
        ),
        ({"parallel_tool_calls": True}, "parallel_tool_calls"),
        ({"tools": [PRICE], "tool_choice": {"type": "function", "function": {"name": "y"}}}, "tool_choice"),
    ],
)
def test_what_the_api_refuses_is_refused_with_the_field(change, param):
    with pytest.raises(ApiError) as refusal:
        read_chat_request({"model": MODEL, "messages": [ASKED], **change})
    assert (refusal.value.status, refusal.value.param) == (400, param)


@pytest.mark.parametrize(
    ("schema", "strict", "problem"),
    [
        ({"type": "object", "properties": {"a": {"type": "array"}}}, False, "array schema missing items"),
        ({"type": "object", "properties": {"a": {"type": "text"}}}, False, "'text'"),
        ({"type": "object", "properties": [], "required": []}, False, "'properties'"),
        ({"type": "object", "properties": {}, "required": "a"}, False, "'required'"),
        ({"type": "object", "properties": {}}, True, "additionalProperties"),
        ({"type": "object", "additionalProperties": False, "properties": {"a": {}}}, True, "'required'"),
        ({"type": "object"}, True, "missing properties"),
        ({"type": "object", "properties": {"a": {"anyOf": [{"type": "x"}]}}}, False, "'x'"),
        ({"type": "object", "properties": {"a": {"type": ["string", "null"]}}, "required": ["a"]}, False, None),
        (None, False, None),
    ],
)
def test_a_broken_schema_is_named(schema, strict, problem):
    found = schema_problem(schema, strict=strict)
    assert found == problem or problem in found


async def test_a_model_that_does_not_exist_is_not_found(rehearsal):
    async with openai_client(rehearsal) as client:
        with pytest.raises(openai.NotFoundError) as refusal:
            await client.chat.completions.create(model="gpt-9", messages=[ASKED])
    assert refusal.value.code == "model_not_found"


async def test_a_model_is_gone_the_day_after_its_last():
    async with serving(today="2026-12-11") as rehearsal, openai_client(rehearsal) as client:
        await client.chat.completions.create(model="gpt-5", messages=[ASKED])
    async with serving(today="2026-12-12") as rehearsal, openai_client(rehearsal) as client:
        assert "gpt-5" not in [model.id async for model in client.models.list()]
        with pytest.raises(openai.NotFoundError):
            await client.chat.completions.create(model="gpt-5", messages=[ASKED])


async def test_the_models_of_other_servers_can_be_allowed():
    async with serving(models="llama3.1:8b,qwen3") as rehearsal, openai_client(rehearsal) as client:
        completion = await client.chat.completions.create(model="qwen3", messages=[SYSTEM])
    assert completion.model == "qwen3"


@pytest.mark.parametrize(
    ("body", "content_type", "status"),
    [(b"{", "application/json", 400), (b"[]", "application/json", 400), (b"{}", "text/plain", 415)],
)
async def test_a_body_that_is_no_json_object_is_refused(rehearsal, body, content_type, status):
    async with (
        http_client(rehearsal) as http,
        http.post("/v1/chat/completions", data=body, headers={"Content-Type": content_type}) as answer,
    ):
        assert answer.status == status
        assert (await answer.json())["error"]["type"] == "invalid_request_error"


async def test_an_unknown_path_is_refused_in_the_apis_shape(rehearsal):
    async with http_client(rehearsal) as http, http.post("/v1/chat/completion", json={}) as answer:
        assert (answer.status, (await answer.json())["error"]["message"]) == (
            404,
            "Invalid URL (POST /v1/chat/completion)",
        )


async def test_the_record_tells_what_the_model_believes_was_said(rehearsal):
    async with openai_client(rehearsal) as client, http_client(rehearsal) as http:
        await streamed(client, [SYSTEM, ASKED, CALLED, RESULT], user="call-1")
        await streamed(client, [SYSTEM, ASKED], user="call-2")
        async with http.get("/rehearsal/conversations") as answer:
            first, second = (await answer.json())["conversations"]
        async with http.get("/rehearsal/requests?endpoint=chat") as answer:
            requests = (await answer.json())["requests"]
        assert (first["key"], first["turn"], first["assistant"]) == ("call-1", 1, ["Ich schaue nach."])
        assert second["assistant"] == []
        assert [(r["status"], r["completed"], r["scenario"]) for r in requests] == [(200, True, "loud")] * 2
        async with http.delete("/rehearsal/requests") as answer:
            assert (await answer.json()) == {"requests": []}
