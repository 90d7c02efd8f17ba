"""Servers that call themselves compatible: what they refuse, leave out and write differently."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from services.ai_session.backends import port
from services.ai_session.backends.chat import ChatModel
from services.ai_session.backends.chat_reply import ChatReply
from services.ai_session.backends.chat_request import ChatRequest, Dialect
from services.ai_session.backends.pipeline_stages import stages_of
from services.ai_session.backends.stage_errors import StageError, voice_failed
from services.ai_session.backends.transcriber import Transcriber
from services.ai_session.http_client import openai_client
from services.ai_session.instruments import sockets_in_use
from services.ai_session.phrases import Verbatim
from services.ai_session.settings import Settings
from services.ai_session.voices.port import VoiceError
from tests.support.http import app_of, serving
from tests.unit.ai_session.pipeline_support import MODELS, ToneVoice, a_caller, offer, stages_at
from tests.unit.ai_session.test_pipeline import TOOLS

WORDS = [{"content": "Guten "}, {"content": "Tag."}]


def chunk(delta, finish=None, **more):
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]} | more


class Server:
    """A compatible server: `refuses` maps fields to the error object of a 400, `chunks` are its answers in turn."""

    def __init__(self, refuses=(), status=400, has_models=True):
        self.refuses, self.status, self.has_models = dict(refuses), status, has_models
        self.bodies, self.answers, self.transcriptions = [], [], []
        self.keys = set()
        self.refuse_if = lambda body: None  # the error object of a body
        self.pause_s = 0.0  # before each event
        self.transcript = {"text": "Hallo."}

    async def models(self, request):
        self.keys.add(request.headers.get("Authorization"))
        return web.json_response({"data": []}) if self.has_models else web.Response(status=404)

    async def chat(self, request):
        body = await request.json()
        self.keys.add(request.headers.get("Authorization"))
        self.bodies.append(body)
        for field, error in self.refuses.items():
            if field in body:
                return web.json_response(error, status=self.status)
        if error := self.refuse_if(body):
            return web.json_response(error, status=self.status)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for event in self.answers.pop(0) if self.answers else [*map(chunk, WORDS), chunk({}, "stop")]:
            line = event if isinstance(event, str) else f"data: {json.dumps(event)}"
            await asyncio.sleep(self.pause_s)
            await response.write(f"{line}\n\n".encode())
        return response

    async def transcribe(self, request):
        fields = await request.post()
        self.keys.add(request.headers.get("Authorization"))
        self.transcriptions.append({name: str(value) for name, value in fields.items() if name != "file"})
        return web.json_response(self.transcript)


@asynccontextmanager
async def reached(server):
    """The server's base URL."""
    routes = (
        web.get("/v1/models", server.models),
        web.post("/v1/chat/completions", server.chat),
        web.post("/v1/audio/transcriptions", server.transcribe),
    )
    async with serving(app_of(*routes)) as url:
        yield f"{url}/v1"


@asynccontextmanager
async def a_call_to(server, **fields):
    async with reached(server) as url, a_caller(stages_at(url), offer(**fields), tools=TOOLS) as caller:
        yield caller


async def answered(caller, count=1):
    caller.backend.start_response(None)
    return await caller.until(port.ResponseEnded, count)


def no(field):
    return {"error": {"message": f"Unrecognized request argument supplied: {field}", "param": None, "code": None}}


async def test_requests_are_counted_as_sockets_while_they_are_under_way():
    server, seen = Server(), []

    async def transcribe(_):
        seen.append(sockets_in_use()["transcription", "openai"])
        return web.json_response({"text": "Hallo."})

    server.transcribe = transcribe
    server.refuse_if = lambda body: seen.append(sockets_in_use()["chat", "openai"])
    async with a_call_to(server) as caller:
        await answered(caller)
        assert caller.text() == "Guten Tag."
    async with reached(server) as url, openai_client(url, "") as client:
        await Transcriber(client, Counter()).transcribe(bytes(3200), 8000, {"model": "whisper-1"})
    assert seen == [1, 1]
    assert (sockets_in_use()["chat", "openai"], sockets_in_use()["transcription", "openai"]) == (0, 0)


async def test_a_server_without_stream_options_is_asked_without_from_then_on():
    server = Server({"stream_options": no("stream_options")})
    async with a_call_to(server, model="llama-3.1-8b") as caller:
        assert (await answered(caller)).status == "completed"
        assert (await answered(caller, 2)).status == "completed"
        assert caller.text() == "Guten Tag." * 2
        assert ["stream_options" in body for body in server.bodies] == [True, False, False]
        usage = [one for one in caller.of(port.UsageCounted) if one.source == "response"]
        assert usage[0].tokens["text_out"] > 0  # an estimate: this server tells none
        assert usage[0].cost_usd is None


async def test_a_refusal_that_names_nothing_is_tried_once_with_less():
    server = Server({"prompt_cache_key": {"detail": "Bad request"}}, status=422)
    async with a_call_to(server, model="mistral") as caller:
        assert (await answered(caller)).status == "completed"
        assert "prompt_cache_key" not in server.bodies[-1]


async def test_a_refusal_for_another_reason_leaves_the_dialect_as_it_was():
    server = Server({"messages": {"error": {"message": "context length exceeded", "code": None, "param": None}}})
    async with a_call_to(server, model="mistral") as caller:
        assert (await answered(caller)).status == "failed"
        server.refuses = {}
        assert (await answered(caller, 2)).status == "completed"
        assert "stream_options" in server.bodies[-1]


async def test_what_was_found_out_by_a_guess_outlives_a_refusal_for_another_reason():
    server = Server({"prompt_cache_key": {"detail": "Bad request"}}, status=422)
    async with a_call_to(server, model="mistral") as caller:
        assert (await answered(caller)).status == "completed"
        server.refuses["messages"] = {"detail": "Too long"}
        assert (await answered(caller, 2)).status == "failed"
        del server.refuses["messages"]
        assert [(await answered(caller, count)).status for count in (3, 4)] == ["completed"] * 2


async def test_calls_that_meet_a_refusal_at_the_same_time_are_all_served():
    server = Server({"prompt_cache_key": {"detail": "Bad request"}}, status=422)
    async with reached(server) as url, openai_client(url, "") as client:
        model = ChatModel(client, Counter())
        asked = [model.answer(request(conversation="c"), ChatReply(), lambda text: None) for _ in range(5)]
        assert {written.status for written in await asyncio.gather(*asked)} == {"completed"}


def test_what_one_model_refuses_another_at_the_same_endpoint_is_still_asked_for():
    dialect = Dialect(is_openai=True)
    eager = request(model="a", reasoning_effort="minimal")
    assert dialect.refused(dialect.body(eager), "reasoning_effort", "Unsupported value")
    assert "reasoning_effort" not in dialect.body(eager)
    assert dialect.body(request(model="b", reasoning_effort="low"))["reasoning_effort"] == "low"


async def test_a_template_that_wants_the_user_to_begin_is_given_one():
    server = Server()
    why = {"message": "Conversation roles must alternate user/assistant/user/assistant/...", "code": 400}
    server.refuse_if = lambda body: body["messages"][1]["role"] == "assistant" and why
    async with a_call_to(server, model="gemma-3") as caller:
        caller.backend.start_response(Verbatim("Guten Tag."))
        await caller.until(port.ResponseEnded)
        assert (await answered(caller, 2)).status == "completed"
        assert [message["role"] for message in server.bodies[-1]["messages"]] == ["system", "user", "assistant"]


async def test_a_model_that_vllm_does_not_know_is_final():
    server = Server()
    server.refuse_if = lambda body: {"object": "error", "message": "The model `x` does not exist.", "code": 404}
    server.status = 404
    async with a_call_to(server, model="x") as caller:
        caller.backend.start_response(None)
        lost = await caller.until(port.Lost)
        assert (lost.code, lost.retry) == ("http_404", False)
        assert "The model `x` does not exist." in lost.detail


async def test_what_was_asked_is_paid_for_also_when_nobody_waited_for_the_answer():
    server = Server()
    server.answers = [[": thinking"] * 3]
    server.pause_s = 0.2
    async with a_call_to(server) as caller:
        caller.backend.start_response(None)
        started = await caller.until(port.ResponseStarted)
        await asyncio.sleep(0.1)
        caller.backend.cancel_response(started.response)
        await caller.until(port.ResponseEnded)
        usage = caller.of(port.UsageCounted)[0]
        assert (usage.source, usage.reference) == ("response", started.response)
        assert usage.tokens["text_in"] > 0 == usage.tokens["text_out"]


async def test_a_server_without_a_list_of_models_is_believed():
    async with a_call_to(Server(has_models=False)) as caller:
        assert (await answered(caller)).status == "completed"


async def test_the_key_of_one_server_is_told_to_no_other():
    async with reached(server := Server()) as url:
        elsewhere = Settings(_env_file=None, openai_api_key="sk-secret", transcription_base_url=url, chat_base_url=url)
        stages = stages_of(elsewhere, MODELS, ToneVoice())
        async with a_caller(stages, offer(transcription={"model": "whisper-large-v3"})) as caller:
            caller.say()
            await caller.until(port.ResponseEnded)
    assert (len(server.transcriptions), len(server.bodies)) == (1, 1)
    assert server.keys == {"Bearer none"}


async def test_a_stage_at_the_same_server_needs_no_key_of_its_own_and_one_elsewhere_has_it():
    async with reached(server := Server()) as url:
        here = {
            "openai_base_url": url,
            "openai_api_key": "sk-secret",
            "chat_base_url": f"{url}/",
            "chat_api_key": "own",
        }
        settings = Settings(_env_file=None, transcription_base_url=url.replace("/v1", "//v1/"), **here)
        stages = stages_of(settings, MODELS, ToneVoice())
        assert (stages.transcription.api_key, stages.chat.api_key) == ("sk-secret", "own")
        assert settings.stage_key(None, None) == "sk-secret"
        assert settings.stage_key(url.replace("http:", "https:"), None) == ""
        await stages.check(0.0)
        await stages.close()
    assert "Bearer own" in server.keys


async def test_whole_calls_finished_with_stop_are_made_under_names_of_our_own():
    server = Server()
    calls = [
        {"index": 0, "id": "call_0", "function": {"name": "price", "arguments": '{"n": 1}'}},
        {"index": 0, "id": "call_1", "function": {"name": "stock", "arguments": "{}"}},
    ]
    server.answers = [[chunk({"content": "", "tool_calls": calls}), chunk({}, "stop")]] * 2
    async with a_call_to(server, model="qwen") as caller:
        await answered(caller)
        for request in caller.of(port.ToolRequested):
            caller.backend.tool_result(request.tool_call_id, "1")
        await caller.until(port.ResponseEnded, 2)
        requests = caller.of(port.ToolRequested)
        assert [request.name for request in requests] == ["price", "stock"] * 2
        assert len({request.tool_call_id for request in requests}) == 4  # though the server repeats its own
        assert all(len(request.tool_call_id) == 9 and request.tool_call_id.isalnum() for request in requests)
        assert server.bodies[1]["messages"][-2]["role"] == "tool"


async def test_usage_in_every_chunk_is_counted_once():
    server = Server()
    usage = [{"prompt_tokens": 10, "completion_tokens": number} for number in (1, 2)]
    server.answers = [[chunk(word, usage=used) for word, used in zip(WORDS, usage, strict=True)] + ["data: [DONE]"]]
    async with a_call_to(server, model="vllm") as caller:
        await answered(caller)
        (told,) = [one for one in caller.of(port.UsageCounted) if one.source == "response"]
        assert told.tokens == {"text_in": 10, "text_out": 2}


async def test_comments_and_thoughts_are_not_spoken():
    server = Server()
    server.answers = [[": keep-alive", chunk({"content": "<think>Hm."}), chunk({"content": "</think>Ja, gern."})]]
    async with a_call_to(server, model="deepseek") as caller:
        await answered(caller)
        assert caller.text() == "Ja, gern."


async def test_a_model_that_breaks_off_is_asked_for_the_rest():
    server = Server()
    server.answers = [
        [chunk({"content": "Zehn Bögen sind notiert. Noch et"}), "data: {"],
        [chunk({"content": "Noch etwas?"}), chunk({}, "stop")],
    ]
    async with a_call_to(server, model="vllm") as caller:
        assert (await answered(caller)).status == "completed"
        assert caller.text() == "Zehn Bögen sind notiert. Noch etwas?"
        system, said = server.bodies[1]["messages"]
        assert system["content"].startswith("Be kind.\n\nYour last message was cut off")
        assert said == {"role": "assistant", "content": "Zehn Bögen sind notiert."}
        assert [trouble.code for trouble in caller.of(port.Trouble)] == ["malformed"]


async def test_a_model_that_breaks_off_before_a_whole_piece_is_asked_again():
    server = Server()
    server.answers = [
        [chunk({"content": "Zehn Bö"}), "data: {"],
        [chunk({"content": "Zehn Bögen."}), chunk({}, "stop")],
    ]
    async with a_call_to(server, model="vllm") as caller:
        assert (await answered(caller)).status == "completed"
        assert caller.text() == "Zehn Bögen."
        assert server.bodies[0]["messages"] == server.bodies[1]["messages"]


async def test_a_model_that_breaks_off_twice_has_failed_and_what_it_wrote_is_spoken():
    server = Server()
    server.answers = [
        [chunk({"content": "Eins ist da. Zwei"}), "data: {"],
        [chunk({"content": "Zwei ist da. Dr"}), "data: {"],
    ]
    async with a_call_to(server, model="vllm") as caller:
        assert (await answered(caller)).status == "failed"
        assert caller.text() == "Eins ist da. Zwei ist da."


async def test_a_local_transcription_is_asked_only_for_what_it_knows():
    server = Server()
    async with a_call_to(server, transcription={"model": "whisper-large-v3", "keywords": ("Bogen",)}) as caller:
        caller.say()
        assert (await caller.until(port.CallerTranscript)).text == "Hallo."
        asked = server.transcriptions[0]
        assert asked == {"model": "whisper-large-v3", "response_format": "json", "language": "de"}


async def test_a_server_that_does_not_stream_a_transcription_has_answered_all_the_same():
    server = Server()
    server.transcript = {"text": "Zehn Bögen.", "usage": {"type": "tokens", "input_tokens": 7, "output_tokens": 3}}
    async with a_call_to(server) as caller:
        caller.say()
        assert (await caller.until(port.CallerTranscript)).text == "Zehn Bögen."
        assert server.transcriptions[0]["stream"] == "true"


@pytest.mark.parametrize("transcript", [{"text": None}, {}, [], "x"])
@pytest.mark.parametrize("model", ["whisper-large-v3", "gpt-transcribe"])
async def test_a_transcription_without_a_text_has_failed(transcript, model):
    server = Server()
    server.transcript = transcript
    async with a_call_to(server, transcription={"model": model}) as caller:
        caller.say()
        assert (await caller.until(port.CallerTranscript)).failed


# -- the body of a request ------------------------------------------------------------------------------------------


def request(**fields):
    return ChatRequest(
        **{"model": "m", "messages": [{"role": "user", "content": "x"}], "tools": (), "max_tokens": 100} | fields
    )


def test_the_original_and_its_reasoning_models_get_the_modern_bound_and_others_the_old_one():
    assert "max_completion_tokens" in Dialect(is_openai=True).body(request())
    assert "max_completion_tokens" in Dialect(is_openai=False).body(request(reasoning_effort="low"))
    assert "max_tokens" in Dialect(is_openai=False).body(request())


def test_a_bound_that_is_refused_is_sent_under_its_other_name():
    dialect = Dialect(is_openai=False)
    body = dialect.body(request())
    assert dialect.refused(body, "max_tokens", "Use 'max_completion_tokens' instead.")
    assert dialect.body(request())["max_completion_tokens"] == 100
    assert dialect.refused(dialect.body(request()), "max_completion_tokens", "")
    assert "max_tokens" not in dialect.body(request())


def test_reasoning_effort_is_sent_only_to_models_that_reason():
    assert MODELS.get("gpt-5.6-luna").reasoning
    assert "reasoning_effort" not in Dialect(is_openai=True).body(request())
    assert Dialect(is_openai=True).body(request(reasoning_effort="none"))["reasoning_effort"] == "none"


def test_stage_errors_say_whether_to_try_again():
    error = StageError("code", "A sentence.", retry=True)
    assert (error.retry, error.final, error.retry_after_s, str(error)) == (True, False, None, "A sentence.")


@pytest.mark.parametrize("code", ["quota_exceeded", "voice_not_found", "insufficient_quota", "http_401"])
def test_a_voice_that_will_never_speak_ends_the_call_instead_of_leaving_it_silent(code):
    failure = voice_failed(VoiceError(code, "No.", retry=False))
    assert (failure.final, failure.retry) == (True, False)
    assert not voice_failed(VoiceError("system_busy", "Later.", retry=True)).final
