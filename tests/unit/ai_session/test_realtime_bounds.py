"""A server that sends without end fills no memory: what is too much is counted and dropped."""

from __future__ import annotations

import base64

from libs.contracts.agent import AgentConfig
from tests.unit.ai_session.fake_model import configured, fake_model
from tests.unit.ai_session.test_realtime import events_of, of_kind
from tests.unit.ai_session.test_session_reconnects import a_call

AGENT = AgentConfig(name="unit", prompt="Be kind.", greeting="Guten Tag.")
FRAME_100_MS = base64.b64encode(b"\xff" * 800).decode()


async def test_a_response_without_an_end_is_cancelled_and_its_rest_dropped(server, monkeypatch):
    monkeypatch.setattr("services.ai_session.backends.realtime.MAX_RESPONSE_S", 1.0)

    async def endless(model, socket, event):
        await configured(model, socket, event)
        if event["type"] == "response.create":
            await socket.send_json({"type": "response.created", "response": {"id": "r"}})
            for _ in range(30):
                part = {"response_id": "r", "item_id": "i", "content_index": 0}
                await socket.send_json({"type": "response.output_audio.delta", **part, "delta": FRAME_100_MS})
        if event["type"] == "response.cancel":
            await socket.send_json({"type": "response.done", "response": {"id": "r", "status": "cancelled"}})

    async with fake_model(endless) as model, a_call(server, model, AGENT) as (worker, leg):
        await leg.until_ready()
        await leg.run_until(lambda: len(leg.heard) >= 16000)
        await leg.run(200)
        assert len(leg.heard) == 16000
        assert len(model.of_type("response.cancel")) == 1
        assert worker._sessions[leg.call]._model.backend._endpoint.counters["audio_over_limit"] == 20
        troubles = of_kind(await events_of(worker, leg), "session.trouble")
        assert [trouble.code for trouble in troubles] == ["response_too_long"]
        assert leg.commanded("failed") == []


async def test_a_flood_before_the_session_is_open_is_dropped_and_the_session_opens(server, monkeypatch):
    monkeypatch.setattr("services.ai_session.backends.arrivals.MAX_EARLY_EVENTS", 5)

    async def flood(model, socket, event):
        if event["type"] == "session.update":
            await configured(model, socket, event)
            for _ in range(50):
                await socket.send_json({"type": "input_audio_buffer.speech_stopped", "item_id": "i"})

    async with fake_model(flood) as model, a_call(server, model, AGENT) as (_, leg):
        await leg.until_ready()
        await leg.run_until(lambda: model.of_type("response.create"))
        assert leg.commanded("failed") == []
