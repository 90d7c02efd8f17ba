"""`/v1/live/sessions`: the upgrade, a session over a real socket, refusals."""

import asyncio

import aiohttp
import pytest

from services.rehearsal.faults import parse_fault
from services.rehearsal.server import Rehearsal
from services.rehearsal.settings import RehearsalSettings

SESSION = {"model": "gpt-live-1", "audio": {"format": {"type": "audio/pcmu", "rate": 8000}}}
KEY = {"Authorization": "Bearer any"}


async def test_a_session_starts_speaks_and_closes():
    async with Rehearsal.start(RehearsalSettings(self_check=True, first_byte_ms=10)) as rehearsal:
        kinds = []
        async with (
            aiohttp.ClientSession(headers=KEY) as client,
            client.ws_connect(f"{rehearsal.base_url}/live/sessions") as socket,
            asyncio.timeout(5),
        ):
            await socket.send_json({"type": "session.start", "session": SESSION})
            assert (await socket.receive_json())["type"] == "session.started"
            await socket.send_json({"type": "session.commentary.append", "content": "Hallo.", "delegation_id": None})
            async for message in socket:
                kinds.append(message.json()["type"])
                if kinds[-1] == "session.output_transcript.delta":
                    await socket.send_json({"type": "session.close"})
        assert kinds[-1] == "session.closed"
        assert {"session.commentary.appended", "session.output_audio.delta"} <= set(kinds)
        (truth,) = rehearsal.sessions.all()
        assert truth.closed == {"code": 1000, "by": "server"}


@pytest.mark.parametrize(
    ("fault", "query", "status"), [("refuse:status=429,on=live", {}, 429), (None, {"model": "x"}, 400)]
)
async def test_an_upgrade_is_refused(fault, query, status):
    async with Rehearsal.start() as rehearsal:
        if fault is not None:
            rehearsal.inject(parse_fault(fault))
        async with aiohttp.ClientSession(headers=KEY) as client:
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                await client.ws_connect(f"{rehearsal.base_url}/live/sessions", params=query)
        assert refused.value.status == status
