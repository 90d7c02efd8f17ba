import asyncio
import base64
import contextlib
import io

import aiohttp
import pytest
from openai import AsyncOpenAI
from prometheus_client.parser import text_string_to_metric_families

from libs.audio.wav import read_wav
from services.rehearsal.faults import Fault
from services.rehearsal.metrics import DEFINED
from services.rehearsal.server import Rehearsal
from services.rehearsal.settings import RehearsalSettings
from services.rehearsal.validation import ServerEventError

from .driver import PCMU

SETTINGS = RehearsalSettings(self_check=True, first_byte_ms=5, tool_call_ms=5, speed=200, seed=1)


@pytest.fixture
async def rehearsal():
    async with Rehearsal.start(SETTINGS) as server:
        yield server


@contextlib.asynccontextmanager
async def connected(rehearsal, fault=None):
    query = {"model": "gpt-realtime-2.1"} | ({"fault": fault} if fault else {})
    headers = {"Authorization": "Bearer any"}
    url = f"{rehearsal.base_url}/realtime"
    async with (
        aiohttp.ClientSession(headers=headers) as http,
        http.ws_connect(url, params=query) as socket,
    ):
        yield socket


async def send(socket, kind, **fields):
    await socket.send_json({"type": kind, **fields})


async def configure(socket):
    await send(socket, "session.update", session={"type": "realtime", "audio": PCMU})


async def until(socket, kind):
    """Events up to the first of this kind, or up to the end of the connection when it never comes."""
    seen = []
    async with asyncio.timeout(5):
        async for message in socket:
            seen.append(message.json())
            if seen[-1]["type"] == kind:
                break
    return seen


async def test_a_client_gets_a_spoken_greeting(rehearsal):
    async with connected(rehearsal) as socket:
        await until(socket, "session.created")
        await configure(socket)
        updated = (await until(socket, "session.updated"))[-1]
        assert updated["session"]["audio"]["output"]["format"] == {"type": "audio/pcmu"}
        await send(socket, "response.create")
        events = await until(socket, "response.done")
    deltas = [e["delta"] for e in events if e["type"] == "response.output_audio.delta"]
    audio = b"".join(map(base64.b64decode, deltas))
    truth = rehearsal.sessions.all()[0].as_json()
    assert truth["items"][0]["sent_ms"] == pytest.approx(len(audio) / 8)
    async with aiohttp.ClientSession() as http:
        path = f"{rehearsal.url}/rehearsal/sessions/{truth['id']}/items/{truth['items'][0]['id']}.wav"
        async with http.get(path) as answer:
            recording = read_wav(io.BytesIO(await answer.read()))
    assert (recording.rate_hz, len(recording.pcm)) == (8000, 2 * len(audio))


async def test_a_missing_key_is_refused_with_401(rehearsal):
    async with aiohttp.ClientSession() as http, http.get(f"{rehearsal.base_url}/models") as answer:
        assert answer.status == 401


async def test_only_the_configured_key_is_accepted():
    async with Rehearsal.start(RehearsalSettings(api_key="right")) as rehearsal, aiohttp.ClientSession() as http:
        for key, status in (("wrong", 401), ("right", 200)):
            headers = {"Authorization": f"Bearer {key}"}
            async with http.get(f"{rehearsal.base_url}/models", headers=headers) as answer:
                assert answer.status == status


async def test_models_carry_their_shutdown_date(rehearsal):
    client = AsyncOpenAI(api_key="any", base_url=rehearsal.base_url)
    models = {model.id: model async for model in await client.models.list()}
    await client.close()
    assert models["gpt-realtime"].shutdown_date == "2027-01-20"
    assert models["gpt-realtime-2.1"].shutdown_date is None


async def test_health_and_metrics_answer_without_a_key(rehearsal):
    async with aiohttp.ClientSession() as http:
        async with http.get(f"{rehearsal.url}/healthz") as answer:
            assert answer.status == 200
        async with http.get(f"{rehearsal.url}/metrics") as answer:
            assert "rehearsal_sessions_active 0.0" in await answer.text()


async def test_its_metrics_are_those_that_are_documented(rehearsal):
    rehearsal.metrics.client_errors.labels("none").inc()
    shown = set()
    async with aiohttp.ClientSession() as http, http.get(f"{rehearsal.url}/metrics") as answer:
        for family in text_string_to_metric_families(await answer.text()):
            if not family.name.startswith(("process_", "python_")):
                name = family.name + "_total" * (family.type == "counter")
                shown.add((name, family.type, family.documentation))
    assert shown == {(one.name, one.kind, one.text) for one in DEFINED}


async def test_an_ordered_refusal_hits_the_next_session_only(rehearsal):
    async with aiohttp.ClientSession() as http:
        order = {"kind": "refuse", "status": 429, "count": 1}
        async with http.post(f"{rehearsal.url}/rehearsal/faults", json=order) as answer:
            assert (await answer.json())["faults"] == [{"kind": "refuse", "status": 429, "count": 1}]
    with pytest.raises(aiohttp.WSServerHandshakeError) as refusal:
        async with connected(rehearsal):
            pass
    assert refusal.value.status == 429
    async with connected(rehearsal) as socket:
        assert (await until(socket, "session.created"))[-1]["type"] == "session.created"


async def test_a_fault_order_with_an_unknown_field_is_refused(rehearsal):
    async with aiohttp.ClientSession() as http:
        async with http.post(f"{rehearsal.url}/rehearsal/faults", json={"kind": "refuse", "x": 1}) as answer:
            assert answer.status == 400
        async with http.delete(f"{rehearsal.url}/rehearsal/faults") as answer:
            assert (await answer.json()) == {"faults": []}


@pytest.mark.parametrize("code", [1000, 1008, 1011, 1012, 1013, 4000])
async def test_a_close_fault_ends_the_session_with_its_code(rehearsal, code):
    async with connected(rehearsal, fault=f"close:code={code},after_deltas=2") as socket:
        await configure(socket)
        await send(socket, "response.create")
        events = await until(socket, "response.done")
    assert socket.close_code == code
    assert [e["type"] for e in events].count("response.output_audio.delta") == 2
    assert rehearsal.sessions.all()[0].closed == {"code": code, "by": "server"}


async def test_an_aborted_connection_leaves_no_close_frame(rehearsal):
    rehearsal.inject(Fault(kind="abort", after_deltas=1))
    async with connected(rehearsal) as socket:
        await configure(socket)
        await send(socket, "response.create")
        await until(socket, "response.done")
    assert socket.close_code in (None, 1006)


async def test_the_session_limit_announces_itself_and_closes_with_1001():
    settings = RehearsalSettings(session_limit_s=0.05)
    async with Rehearsal.start(settings) as rehearsal, connected(rehearsal) as socket:
        events = await until(socket, "never")
        assert events[-1]["error"]["code"] == "session_expired"
        assert socket.close_code == 1001


async def test_a_session_that_hangs_before_it_is_created_says_nothing(rehearsal):
    rehearsal.inject(Fault(kind="no_session_created"))
    async with connected(rehearsal) as socket:
        with pytest.raises(TimeoutError):
            await socket.receive(timeout=0.1)


async def test_shutdown_closes_open_sessions():
    async with contextlib.AsyncExitStack() as stack:
        async with Rehearsal.start(SETTINGS) as rehearsal:
            socket = await stack.enter_async_context(connected(rehearsal))
            await until(socket, "session.created")
            reading = asyncio.create_task(until(socket, "never"))
        assert await reading == []
        assert socket.close_code == 1001
    assert rehearsal.sessions.all()[0].closed is not None


async def test_bad_json_is_answered_and_the_session_goes_on(rehearsal):
    async with connected(rehearsal) as socket:
        await socket.send_str("{")
        assert (await until(socket, "error"))[-1]["error"]["code"] == "invalid_json"
        await configure(socket)
        assert (await until(socket, "session.updated"))[-1]["type"] == "session.updated"


async def test_an_upgrade_can_hang(rehearsal):
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1), connected(rehearsal, fault="hang_upgrade"):
            pass


async def test_pings_can_go_unanswered(rehearsal):
    async with connected(rehearsal, fault="no_pong") as socket:
        await configure(socket)
        assert (await until(socket, "session.updated"))[-1]["type"] == "session.updated"
    beating = aiohttp.ClientSession(headers={"Authorization": "Bearer any"})
    query = {"model": "gpt-realtime-2.1", "fault": "no_pong"}
    async with beating as http, http.ws_connect(f"{rehearsal.base_url}/realtime", params=query, heartbeat=0.1) as ws:
        await ws.receive(timeout=1)
        assert (await ws.receive(timeout=2)).type in (aiohttp.WSMsgType.ERROR, aiohttp.WSMsgType.CLOSED)


async def test_the_self_check_ends_a_session_that_breaks_the_models(rehearsal, monkeypatch):
    def refuse(frame):
        if frame["type"] == "response.done":
            raise ServerEventError("a rehearsed mistake")

    monkeypatch.setattr("services.rehearsal.http_realtime.validate_server_event", refuse)
    async with connected(rehearsal) as socket:
        await configure(socket)
        await send(socket, "response.create")
        events = await until(socket, "response.done")
    assert events[-1]["type"] != "response.done"
    assert rehearsal.sessions.all()[0].closed is not None


async def test_the_records_are_for_the_networks_that_the_settings_name() -> None:
    elsewhere = RehearsalSettings(admin_networks="10.0.0.0/8,::1/128")
    async with Rehearsal.start(elsewhere) as rehearsal, aiohttp.ClientSession(rehearsal.url) as client:
        for page, status in (("/rehearsal/sessions", 403), ("/rehearsal/requests", 403), ("/healthz", 200)):
            async with client.get(page) as response:
                assert response.status == status
