"""Pages that lie, flood, or do not read; operators whose page, bus or rivals get in their way."""

import asyncio

import pytest

from libs.contracts.commands import HangUp
from libs.contracts.events import CallEnded, DtmfReceived
from libs.contracts.frame import AudioFrame, Codec
from libs.contracts.offer import Release
from libs.contracts.termination import Reason
from services.browser_gateway import connection as connection_module
from services.browser_gateway.page_stream import HEADER
from tests.unit.browser_gateway.conftest import world
from tests.unit.browser_gateway.test_take_over import OTHER_VOICE, operator, taken

# -- pages ----------------------------------------------------------------------------------------------------


async def test_a_page_that_sends_and_never_reads_does_not_hold_its_call(server, monkeypatch):
    monkeypatch.setattr(connection_module, "FINISH_S", 0.2)
    monkeypatch.setattr(connection_module, "CUT_AFTER_S", 0.5)
    async with world(server) as here:
        worker, page, offer = await here.talking()
        transport = page.socket._response.connection.transport
        transport.pause_reading()
        (shell,) = here.legs._calls.values()
        connection = shell.entrance._connection
        while connection.counters["audio_dropped"] < 100:  # until every buffer on the way is full
            for _ in range(10):
                connection.send_audio(bytes(32000))
            await page.socket.send_bytes(HEADER.pack(0) + bytes(640))
            await asyncio.sleep(0)
        await worker.command(offer, HangUp(epoch=offer.epoch, reason=Reason.AGENT_HUNG_UP))
        await here.event(CallEnded)
        await here.until(lambda: not here.web._connections)
        transport.abort()


@pytest.mark.parametrize("field", ["underruns", "trimmed", "unsent"])
async def test_a_pages_counters_are_believed_within_reason(server, field):
    async with world(server) as here:
        _, page, _ = await here.talking()
        await page.socket.send_str(f'{{"type":"statistics","{field}":{"9" * 1000}}}')
        await page.say(type="hang_up")
        ended = await here.event(CallEnded)
        assert ended.media.dn_underrun < 1000
        await here.until(lambda: not here.web._connections)
        assert all(value < 1 << 53 for value in here.gateway.media.values())


async def test_a_page_cannot_have_heard_what_it_was_not_sent(server):
    async with world(server) as here:
        _, page, _ = await here.talking()
        page.plays = False
        await page.socket.send_bytes(HEADER.pack(1 << 40) + bytes(640))
        (shell,) = here.legs._calls.values()
        playout = shell.entrance.playout
        for n in range(5):
            playout.push(AudioFrame(Codec.PCM16_16000, 0, playout.epoch, n, n * 320, bytes(640)))
        await here.until(lambda: playout.sent == 1600)
        await page.socket.send_bytes(HEADER.pack(1 << 40) + bytes(640))
        await here.until(lambda: playout.counters["position_ahead"])
        assert playout.played == 0
        await page.socket.send_bytes(HEADER.pack(640) + bytes(640))
        await here.until(lambda: playout.played == 640)


async def test_a_flood_of_keys_reaches_neither_agent_nor_record(server):
    async with world(server) as here:
        _, page, _ = await here.talking()
        for _ in range(500):
            await page.say(type="dtmf", digit="1")
        await page.say(type="hang_up")
        await here.event(CallEnded)
        assert 32 <= len(here.of(DtmfReceived)) < 60


# -- the page's own tokens ----------------------------------------------------------------------------------------


async def test_behind_a_proxy_that_does_not_say_so_there_are_no_own_tokens(server):
    async with world(server, browser_public_url="https://calls.example.org") as here:
        own = {"Origin": here.base}  # nginx without any proxy_set_header: our address as Host, the client's Origin
        async with here.http.post(here.base + "/token", json={"to": "bestellung"}, headers=own) as response:
            assert response.status == 403


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"[" * 2000, "application/json"),
        (b'{"to":"\\ud800"}', "application/json"),
        (b"{}", "application/json; charset=klingon"),
        (b"\xff\xfe", "application/json"),
        (b'{"to":' + b"9" * 1900 + b"}", "application/json"),
    ],
)
async def test_nonsense_in_place_of_whom_to_call_is_a_bad_request(server, body, kind):
    async with world(server) as here:
        headers = {"Origin": here.base, "Content-Type": kind}
        async with here.http.post(here.base + "/token", data=body, headers=headers) as response:
            assert response.status == 400


# -- operators ----------------------------------------------------------------------------------------------------


async def test_an_operator_who_cannot_give_the_call_back_is_heard_meanwhile(server):
    async with world(server) as here:
        worker, caller, _, person = await taken(here)
        worker.die()
        await here.until(lambda: not here.legs.roster.is_alive(worker.wk))
        (held,) = here.gateway.taken
        await person.say(type="hand_over")
        await person.speak(OTHER_VOICE[: 640 * 15])
        assert not [one for one in person.told if one["type"] == "refused"]  # it is still asking
        assert held._seq >= 10
        assert (await person.message("refused"))["error"] == "no other worker is free"
        await caller.until(lambda: len(caller.heard) > 640 * 10)


async def test_an_operators_page_cannot_flood_the_bus(server):
    async with world(server) as here:
        _, _, _, person = await taken(here)
        (held,) = here.gateway.taken
        for _ in range(300):
            await person.send(bytes(640))
        await here.until(lambda: held._clock.counters["overrun"] > 100)
        assert held._seq < 100


async def test_who_takes_the_call_before_our_answer_is_read_has_it(server):
    async with world(server) as here:
        _, _, offer, person = await taken(here)
        (held,) = here.gateway.taken
        epoch, held._epoch = held._epoch, -1  # the release overtakes the reading of the answer
        await here.bus.control.publish(f"v1.wk.{held.by}.release", Release(call=offer.call, epoch=epoch).to_json())
        await here.until(lambda: held._released is not None)
        held._epoch = epoch
        held._take_release(held._released)
        assert (await person.end())["detail"] == "another has the call now"


async def test_a_second_operator_takes_the_call_from_the_first(server):
    async with world(server) as here:
        _, _, offer, first = await taken(here)
        second = await operator(here, offer.call)
        await second.message("answered")
        assert (await first.end())["detail"] == "another has the call now"
        await asyncio.sleep(0.5)
        assert second.closed is None
        assert not here.of(CallEnded)


async def test_two_operators_at_the_same_instant_leave_the_call_with_one(server):
    async with world(server) as here:
        _, _, offer = await here.talking()
        both = await asyncio.gather(operator(here, offer.call), operator(here, offer.call))
        await here.until(lambda: len(here.gateway.taken) == 1 and any(page.closed for page in both))
        await asyncio.sleep(0.5)
        assert [page.closed is None for page in both].count(True) == 1
        assert not here.of(CallEnded)


async def test_an_unsound_link_of_ours_is_no_silence_of_the_calls_gateway(server, monkeypatch):
    monkeypatch.setattr("services.browser_gateway.takeover.UPLINK_SILENT_S", 0.2)
    async with world(server) as here:
        _, _, _, person = await taken(here)
        (held,) = here.gateway.taken
        held._is_sound = lambda: False  # R3: the bus is away
        await held._subscriptions[0].unsubscribe()
        held._subscriptions.pop(0)
        await asyncio.sleep(0.5)
        assert not held.ended.done()
        held._is_sound = lambda: True
        assert (await person.end())["detail"] == "the call's gateway is silent"
