"""One command each: watch a call, hear it, see why the last one failed; and what the logs tell of a whole call."""

import asyncio
import json
import re
import signal

import numpy as np
import pytest
import pytest_asyncio
from aiohttp import web

from libs.audio.compare import best_correlation
from libs.audio.wav import read_wav
from libs.contracts.agent import AgentConfig
from libs.contracts.config import RouteConfig
from libs.contracts.events import AgentTurn, CallRecording, RecordingStored
from libs.softphone.phone import CallRejected
from tests.support.callbus import begin, callbus
from tests.support.calling import place
from tests.support.http import app_of, serving
from tests.support.platform import platform
from tests.support.speech import the_speech
from tests.support.waiting import until

pytestmark = pytest.mark.asyncio(loop_scope="module")

MODEL_KEY, SIP_PASSWORD, TOKEN = "sk-proj-Zm9vYmFyMTIzNDU2Nzg5", "hunter2-am-telefon", "mcp-token-2f6b1c"
SECRETS = (MODEL_KEY, SIP_PASSWORD, TOKEN)
MELODY = [["text:Guten Tag, hier ist die Bestellannahme.", "tone:440:1500", "tone:660:1500"], ["silence:20"]]
AGENT = AgentConfig(
    name="heard", backend="scripted", recording="on",
    turn_taking={"interruptible": False}, backend_options={"mode": "talk", "say": MELODY}, greeting="...",
)  # fmt: skip
REFUSED = AgentConfig(name="refused", backend="realtime", prompt="x", model="gpt-realtime")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def provider():
    """One that refuses every key."""

    async def refuse(_: web.Request) -> web.Response:
        error = {"message": "Incorrect API key provided", "type": "invalid_request_error", "code": "invalid_api_key"}
        return web.json_response({"error": error}, status=401)

    async with serving(app_of(web.route("*", "/{path:.*}", refuse))) as url:
        yield f"{url}/v1"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(provider):
    routes = [RouteConfig(name=agent.name, match=(agent.name,), agent=agent.name) for agent in (AGENT, REFUSED)]
    trunk = {"SIP_SERVER": "127.0.0.1:9", "SIP_USERNAME": "callbus", "SIP_PASSWORD": SIP_PASSWORD}
    model = {"OPENAI_BASE_URL": provider, "OPENAI_API_KEY": MODEL_KEY, "MCP_TOKENS": json.dumps({"crm": TOKEN})}
    async with platform(
        documents=[AGENT, REFUSED, *routes],
        recorder=True,
        store=True,
        environment={"LOG_LEVEL": "DEBUG", **trunk},
        worker_environment=model,
    ) as started:
        yield started


async def until_told(var, url, words, text):
    """What a command prints, once the store has read of the call."""
    async with asyncio.timeout(20):
        while True:
            done = await callbus(var, *words, nats_url=url)
            if text in done.stdout:
                return done.stdout
            await asyncio.sleep(0.2)


async def test_a_call_is_watched_heard_and_played_in_one_command_each(running, feed, phone):
    var, url = running.directory, running.nats_url
    call, mine = await place(running, feed, phone, "heard")
    file = var / "tapped.wav"
    tap = await begin(var, "tap", "last", "--wav", str(file), "--json", "--partials", nats_url=url)
    await until(lambda: file.exists() and file.stat().st_size > 44)
    await feed.wait_where(CallRecording, lambda event: event.call == mine and event.state == "started")
    listed = json.loads((await callbus(var, "calls", "--json", nats_url=url)).stdout)
    assert [(one["call"], one["agent"], one["recording"]) for one in listed] == [(mine, "heard", True)]
    await call.play(the_speech()).wait()
    await feed.wait_where(AgentTurn, lambda event: event.call == mine)
    await call.hang_up()
    async with asyncio.timeout(20):
        shown, told = await tap.communicate()
    kinds = [json.loads(line)["kind"] for line in shown.decode().splitlines()]
    assert (kinds[0], kinds[-1], tap.returncode) == ("call.offered", "call.ended", 0)
    assert {"call.answered", "agent.turn"} <= set(kinds)
    assert b"the caller left, what they heard right" in told
    heard = np.frombuffer(read_wav(file.read_bytes()).pcm, "<i2").reshape(-1, 2)
    left, right = (best_correlation(the_speech(), heard[:, side].tobytes())[0] for side in (0, 1))
    assert left > 0.4  # a busy machine shifts by a frame now and then: test_recording.py has the exact one
    assert right < 0.3
    stored = await feed.wait_where(RecordingStored, lambda event: event.call == mine)
    await until_told(var, url, ("show", "last"), mine)
    out = var / "played.wav"
    await until_told(var, url, ("play", "last", "--out", str(out)), "the caller left")
    assert out.read_bytes() == (var / "objects" / stored.key).read_bytes()


async def test_why_the_last_call_failed_is_told_with_what_to_do(running, feed, phone):
    var, url = running.directory, running.nats_url
    with pytest.raises(CallRejected):
        await phone.call(running.sip_uri("refused"), from_user="+4930779001")
    ended = await feed.end_of("+4930779001")
    shown = await until_told(var, url, ("show", "last", "--failed"), ended.call)
    assert "failed (model_refused)" in shown
    assert "(HTTP 401)" in shown
    assert "what to do: the provider refused key or model: OPENAI_API_KEY" in shown
    found = json.loads((await callbus(var, "doctor", "--json", nats_url=url)).stdout)
    assert {"bus", "streams", "recorder", "clock"} <= {one["check"] for one in found if one["state"] == "ok"}


async def test_an_interrupted_tap_leaves_a_whole_file(running, feed, phone):
    file = running.directory / "cut.wav"
    call, _ = await place(running, feed, phone, "heard")
    tap = await begin(running.directory, "tap", "last", "--wav", str(file), nats_url=running.nats_url)
    await until(lambda: file.exists() and file.stat().st_size >= 44 + 20 * 640)
    tap.send_signal(signal.SIGINT)
    async with asyncio.timeout(10):
        await tap.communicate()
    await call.hang_up()
    assert tap.returncode == 130
    assert len(read_wav(file.read_bytes()).pcm) == file.stat().st_size - 44


def lines_of(running, name, call):
    """What a process wrote of a call, for people who watch no details."""
    lines = [json.loads(line) for line in running.log(name).splitlines() if line.startswith("{")]
    return [line for line in lines if line.get("call") == call and line["level"] != "debug"]


async def test_a_call_has_one_line_at_its_start_and_one_at_its_end_and_no_secret_or_audio_is_logged(
    running, feed, phone
):
    call, mine = await place(running, feed, phone, "heard")
    await call.play(the_speech()[: 2 * 8000 * 2]).wait()
    await call.hang_up()
    with pytest.raises(CallRejected):  # the provider was shown its key
        await phone.call(running.sip_uri("refused"))
    begins = {"sip_gateway": ("call offered", "ended"), "ai_session-1": ("session begins", "session ended")}
    for name, expected in begins.items():
        await until(lambda name=name: len(lines_of(running, name, mine)) >= 2)
        told = lines_of(running, name, mine)
        assert tuple(line["event"] for line in told) == expected
        end = told[-1]
        if name == "sip_gateway":
            assert (end["result"], end["reason"]) == ("success", "caller_hung_up")
            assert end["media"]["up_published"] > 50
        else:
            assert end["cause"] == "released"
            assert end["up"] > 50
    for name in running.names:
        log = running.log(name)
        assert [secret for secret in SECRETS if secret in log] == [], name
        assert not re.search(r"[A-Za-z0-9+/]{200,}", log), name
