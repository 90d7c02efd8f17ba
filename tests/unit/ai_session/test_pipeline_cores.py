import json

import pytest
from hypothesis import given, strategies as st

from services.ai_session.backends.chat_reply import BrokenReplyError, ChatReply
from services.ai_session.backends.pipeline_history import STILL_RUNNING, PipelineHistory, ToolCall, estimated_tokens
from services.ai_session.backends.pipeline_requests import Begin, PipelineRequests
from services.ai_session.history import CalledTool, Said, ToolOutput
from services.ai_session.phrases import Verbatim

RATE_HZ = 8000
SECOND = RATE_HZ


# -- the reply, in the dialects of several servers ---------------------------------------------------------------


def delta(finish=None, usage=None, **fields):
    chunk = {"choices": [{"index": 0, "delta": fields, "finish_reason": finish}]}
    return chunk | ({"usage": usage} if usage else {})


def call(index=None, wire_id=None, name=None, arguments=None):
    fields = {"index": index, "id": wire_id, "function": {"name": name, "arguments": arguments}}
    return {key: value for key, value in fields.items() if value is not None}


def reply(*chunks):
    one = ChatReply()
    text = "".join(one.push(chunk) for chunk in chunks)
    end = one.end()
    return text + end.text, end, one


def test_text_and_usage_of_a_plain_answer():
    usage = {"prompt_tokens": 20, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 16}}
    text, end, one = reply(
        delta(role="assistant", content=""),
        delta(content="Guten "),
        delta(content="Tag."),
        delta("stop"),
        {"choices": [], "usage": usage},
    )
    assert (text, end.calls, end.status) == ("Guten Tag.", (), "completed")
    assert one.usage == {"text_in": 20, "text_cached": 16, "text_out": 3}


DIALECTS = {
    "OpenAI: in pieces, by index": [
        delta(content=None, tool_calls=[call(0, "call_a", "price", "")]),
        delta(tool_calls=[call(0, arguments='{"n"')]),
        delta(tool_calls=[call(0, arguments=":1}")]),
        delta(tool_calls=[call(1, "call_b", "stock", "")]),
        delta(tool_calls=[call(1, arguments="{}")]),
        delta("tool_calls"),
    ],
    "whole calls in one delta, finished with stop": [
        delta("stop", tool_calls=[call(0, "a", "price", '{"n":1}'), call(1, "b", "stock", "{}")]),
    ],
    "every call has the index 0": [
        delta(tool_calls=[call(0, "a", "price", '{"n":1}')]),
        delta(tool_calls=[call(0, "b", "stock", "{}")]),
        delta("stop"),
    ],
    "no ids": [
        delta(tool_calls=[call(0, name="price", arguments='{"n"')]),
        delta(tool_calls=[call(0, arguments=":1}")]),
        delta(tool_calls=[call(1, name="stock", arguments="{}")]),
        delta("tool_calls"),
    ],
    "neither ids nor indices": [
        delta(tool_calls=[call(name="price", arguments='{"n":1}'), call(name="stock", arguments="{}")]),
        delta("stop"),
    ],
    "arguments as objects, no finish reason": [
        delta(tool_calls=[call(0, "a", "price", {"n": 1}), call(1, "b", "stock", {})]),
    ],
    "id and name in every delta": [
        delta(tool_calls=[call(0, "a", "price", '{"n"')]),
        delta(tool_calls=[call(0, "a", "price", ":1}")]),
        delta(tool_calls=[call(1, "b", "stock", "{}")]),
        delta("tool_calls"),
    ],
    "no arguments for a tool without parameters": [
        delta(tool_calls=[call(0, "a", "price", '{"n":1}'), call(1, "b", "stock")]),
        delta("tool_calls"),
    ],
}


@pytest.mark.parametrize("chunks", DIALECTS.values(), ids=DIALECTS.keys())
def test_tool_calls_of_every_dialect(chunks):
    _, end, _ = reply(*chunks)
    assert [(one.name, json.loads(one.arguments)) for one in end.calls] == [("price", {"n": 1}), ("stock", {})]


def test_a_message_that_was_not_streamed_is_taken_whole():
    whole = {"choices": [{"message": {"role": "assistant", "content": "Ja."}, "finish_reason": "stop"}]}
    assert reply(whole)[0] == "Ja."


def test_calls_that_were_cut_off_are_not_made():
    _, end, _ = reply(delta(tool_calls=[call(0, "a", "price", '{"n"')]), delta("length"))
    assert (end.calls, end.status, end.detail) == ((), "incomplete", "max_output_tokens")


def test_a_filtered_answer_is_incomplete_and_a_refusal_is_spoken():
    assert reply(delta(content="Das"), delta("content_filter"))[1].detail == "content_filter"
    assert reply(delta(refusal="Das darf ich nicht."), delta("stop"))[0] == "Das darf ich nicht."


@pytest.mark.parametrize("chunk", ["text", 7, None, [], {"error": {"message": "overloaded"}}])
def test_what_is_no_chunk_is_refused_in_a_sentence(chunk):
    with pytest.raises(BrokenReplyError, match="the chat endpoint"):
        ChatReply().push(chunk)


def test_a_stream_without_anything_is_broken():
    with pytest.raises(BrokenReplyError, match="before it began"):
        reply({"choices": []})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["choices", "delta", "tool_calls", "function", "index", "id", "name", "usage", "content"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=25,
)


@given(st.lists(JSON, max_size=5))
def test_strange_json_never_breaks_it_otherwise(chunks):
    one = ChatReply()
    try:
        for chunk in chunks:
            one.push(chunk)
        one.end()
    except BrokenReplyError:
        pass


# -- the conversation ------------------------------------------------------------------------------------------------


def history(max_tokens=10_000):
    return PipelineHistory(RATE_HZ, max_tokens)


def caller(kept, item, text):
    kept.caller_turn(item)
    kept.caller_text(item, text)


def agent(kept, item, *pieces, complete=True):
    for text, samples in pieces:
        kept.say(f"r-{item}", item, text)
        kept.spoken(item, samples)
        if complete:
            kept.piece_complete(item)


def said(kept):
    return [(message["role"], message.get("content")) for message in kept.messages("")]


def test_the_system_prompt_comes_first_and_neighbours_of_a_role_are_joined():
    kept = history()
    agent(kept, "a", ("Guten Tag.", SECOND))
    caller(kept, "u1", "Ich brauche")
    kept.caller_turn("u2")  # its words have not come
    caller(kept, "u3", "zehn Bögen.")
    assert kept.messages("Be kind.") == [
        {"role": "system", "content": "Be kind."},
        {"role": "assistant", "content": "Guten Tag."},
        {"role": "user", "content": "Ich brauche\nzehn Bögen."},
    ]


def test_words_stand_where_the_turn_ended_not_where_they_arrived():
    kept = history()
    kept.caller_turn("u1")
    agent(kept, "a", ("Moment.", SECOND))
    kept.caller_text("u1", "Hallo?")
    assert said(kept) == [("user", "Hallo?"), ("assistant", "Moment.")]


@pytest.mark.parametrize(
    ("heard_ms", "left"),
    [
        (5000, "Eins zwei drei vier. Fünf sechs sieben acht."),
        (4000, "Eins zwei drei vier. Fünf sechs sieben acht."),
        (3000, "Eins zwei drei vier. Fünf sechs"),
        (2000, "Eins zwei drei vier."),
        (1000, "Eins zwei"),
        (200, ""),
        (0, ""),
    ],
)
def test_speech_is_cut_to_what_was_heard_by_sentence_and_by_sample(heard_ms, left):
    kept = history()
    agent(kept, "a", ("Eins zwei drei vier.", 2 * SECOND), ("Fünf sechs sieben acht.", 2 * SECOND))
    kept.truncate("a", heard_ms)
    assert kept.text_of("a") == left
    kept.truncate("a", heard_ms)
    assert kept.text_of("a") == left


def test_a_sentence_whose_audio_was_cut_off_is_cut_by_the_usual_rate_of_speech():
    kept = history()
    agent(kept, "a", ("x" * 14 + " " + "y" * 15, SECOND), complete=False)  # two seconds' worth, one has come
    kept.truncate("a", 5000)
    assert kept.text_of("a") == "x" * 14


def test_a_deleted_item_is_forgotten_and_an_unknown_one_is_none_of_ours():
    kept = history()
    agent(kept, "a", ("Ja.", SECOND))
    kept.truncate("b", 100)
    kept.delete("b")
    kept.delete("a")
    assert said(kept) == []


def calls(kept, response, *names):
    kept.tool_calls(response, [ToolCall(f"id-{name}", name, "{}") for name in names])


def test_tool_calls_and_outputs_stay_together_whatever_comes_between():
    kept = history()
    caller(kept, "u1", "Was kostet das?")
    agent(kept, "a", ("Ich schaue nach.", SECOND))
    calls(kept, "r-a", "price", "stock")
    assert kept.awaits_tools
    caller(kept, "u2", "Sind Sie noch da?")
    assert not kept.tool_output("id-stock", "7")
    roles = [(message["role"], message.get("content")) for message in kept.messages("")]
    assert roles == [
        ("user", "Was kostet das?"),
        ("assistant", "Ich schaue nach."),
        ("tool", STILL_RUNNING),
        ("tool", "7"),
        ("user", "Sind Sie noch da?"),
    ]
    assert kept.tool_output("id-price", "3 Euro")
    assert not kept.awaits_tools
    assert kept.messages("")[2]["content"] == "3 Euro"
    assert [call["id"] for call in kept.messages("")[1]["tool_calls"]] == ["id-price", "id-stock"]
    assert not kept.tool_output("id-unknown", "?")


def test_arguments_that_are_no_json_are_not_repeated_to_the_model():
    kept = history()
    kept.tool_calls("r", [ToolCall("c", "price", '{"n": ')])
    assert kept.messages("")[0]["tool_calls"][0]["function"] == {"name": "price", "arguments": "{}"}


def test_a_replayed_conversation_is_told_as_it_was():
    kept = history()
    kept.replay(
        [
            Said("assistant", "Guten Tag."),
            Said("user", "Preis und Bestand?"),
            CalledTool("c1", "price", "{}"),
            CalledTool("c2", "stock", "{}"),
            ToolOutput("c1", "3"),
            ToolOutput("c2", "7"),
            Said("assistant", "Drei Euro, sieben Stück."),
        ]
    )
    roles = [message["role"] for message in kept.messages("")]
    assert roles == ["assistant", "user", "assistant", "tool", "tool", "assistant"]


def test_the_oldest_turns_go_first_and_room_is_made_for_a_while():
    kept = history(max_tokens=500)
    sizes = []
    for number in range(40):
        caller(kept, f"u{number}", f"Frage {number}: " + "x" * 60)
        agent(kept, f"a{number}", (f"Antwort {number}: " + "y" * 60, SECOND))
        messages = kept.messages("A very long prompt. " * 100)
        assert messages[0]["role"] == "system"
        assert messages[1]["role"] == "user"
        assert messages[-1]["content"].startswith(f"Antwort {number}")
        sizes.append(sum(estimated_tokens(message["content"]) for message in messages[1:]))
    assert max(sizes) <= 500
    firsts = sizes.index(max(sizes))
    assert sizes[firsts + 1] <= 400 + 60  # not one turn at a time: the beginning stays the same for the cache


def test_a_tool_that_still_runs_is_not_forgotten_with_its_turn():
    kept = history(max_tokens=100)
    caller(kept, "u1", "Was kostet das?")
    calls(kept, "r1", "price")
    caller(kept, "u2", "Und noch etwas: " + "x" * 200)
    assert [message["role"] for message in kept.messages("Be kind.")] == ["system", "assistant", "tool", "user"]
    assert kept.tool_output("id-price", "22,50")  # its answer is asked for
    assert "22,50" in [message["content"] for message in kept.messages("")]
    caller(kept, "u3", "Danke.")
    assert [message["role"] for message in kept.messages("")] == ["user"]  # now it is past


def test_a_turn_with_endless_tool_calls_keeps_its_question_and_the_latest_calls():
    kept = history(max_tokens=500)
    caller(kept, "u", "Bestellen Sie alles.")
    for number in range(20):
        calls(kept, f"r{number}", f"tool{number}")
        kept.tool_output(f"id-tool{number}", "z" * 150)
    messages = kept.messages("")
    assert messages[0]["content"] == "Bestellen Sie alles."
    assert messages[-1]["tool_call_id"] == "id-tool19"
    asked = [call["id"] for message in messages for call in message.get("tool_calls", ())]
    assert asked == [message["tool_call_id"] for message in messages if message["role"] == "tool"]


@given(st.lists(st.sampled_from("uatod"), max_size=40), st.integers(60, 400))
def test_whatever_happens_no_call_is_without_output_and_no_output_without_call(steps, max_tokens):
    kept = history(max_tokens)
    for number, step in enumerate(steps):
        match step:
            case "u":
                caller(kept, f"u{number}", "Frage " * 5)
            case "a":
                agent(kept, f"a{number}", ("Antwort " * 5, SECOND))
            case "t":
                calls(kept, f"r{number}", f"t{number}")
            case "o":
                kept.tool_output(f"id-t{number - 1}", "x" * 50)
            case "d":
                kept.delete(f"a{number - 1}")
        waiting = []
        for message in kept.messages(""):
            if message["role"] == "tool":
                assert message["tool_call_id"] == waiting.pop(0)
            else:
                assert not waiting
                waiting = [call["id"] for call in message.get("tool_calls", ())]
        assert not waiting


# -- which response comes next ---------------------------------------------------------------------------------


def test_wishes_queue_and_keep_their_order():
    requests = PipelineRequests()
    assert requests.ask(Verbatim("Eins.")) == Begin(Verbatim("Eins."))
    assert requests.ask("Zwei.") is None
    assert requests.ask(None) is None
    assert requests.ask(None) is None
    assert requests.ended() == Begin("Zwei.")
    assert requests.ended() == Begin(None)
    assert requests.ended() is None


def test_outputs_of_tools_are_answered_when_the_response_that_called_them_is_over():
    requests = PipelineRequests()
    requests.ask(None)
    assert requests.tools_complete() is None
    assert requests.ended() == Begin(None)
    assert requests.ended() is None


def test_words_that_need_no_model_do_not_answer_outputs():
    requests = PipelineRequests()
    requests.ask(None)
    requests.ask(Verbatim("Einen Moment."))
    requests.tools_complete()
    assert requests.ended() == Begin(Verbatim("Einen Moment."))
    assert requests.ended() == Begin(None)


def test_outputs_wait_for_the_callers_words_and_are_answered_with_them():
    requests = PipelineRequests()
    requests.turn_opened("u")
    assert requests.tools_complete() is None
    assert requests.ask(None) == Begin(None)  # the session, when it has the words
    assert requests.turn_closed("u") is None
    assert requests.ended() is None


def test_outputs_are_answered_after_a_turn_that_was_none():
    requests = PipelineRequests()
    requests.turn_opened("u")
    requests.tools_complete()
    assert requests.turn_closed("u") == Begin(None)
