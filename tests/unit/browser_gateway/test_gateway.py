"""Test calls of pages through the gateway, with a scripted worker on a real bus and the gateway's own permissions."""

import asyncio
import base64
import re

import aiohttp
import pytest

from libs.audio.compare import best_correlation
from libs.audio.g711 import Law
from libs.audio.tone import tone
from libs.contracts import subjects
from libs.contracts.agent import AgentConfig
from libs.contracts.commands import CommandReply, DtmfPressed, Failed, HangUp, SendDtmf
from libs.contracts.config import Fallback, OrgConfig, RouteConfig
from libs.contracts.events import AgentText, CallAnswered, CallEnded, CallerTurn, CallOffered, DtmfReceived
from libs.contracts.frame import AudioFrame, Codec, Flag, pack
from libs.contracts.termination import Reason
from services.browser_gateway.web import PAGE, STRANGERS
from tests.support.fake_worker import accept_unready, refuse
from tests.unit.browser_gateway.conftest import AGENT, ROUTE, world

FRAME = 640
VOICE = tone(440, 600, 16000)


def says(worker, offer, seq: int, pcm: bytes = b"", *, flush: bool = False) -> None:
    frame = AudioFrame(Codec.PCM16_16000, Flag.FLUSH if flush else 0, offer.epoch, seq, seq * 320, pcm)
    worker.bus.send_frame(subjects.audio(offer.org, offer.gw, worker.wk, offer.call, "dn"), pack(frame))


async def speak(worker, offer, pcm: bytes) -> None:
    """As a worker does: at most 200 ms ahead."""
    for number in range(len(pcm) // FRAME):
        says(worker, offer, number, pcm[number * FRAME : (number + 1) * FRAME])
        if number >= 8:
            await asyncio.sleep(0.02)


# -- calls ------------------------------------------------------------------------------------------------


async def test_a_page_rings_and_is_answered_by_the_agent_of_the_route(server):
    async with world(server) as here:
        _, page, offer = await here.talking()
        assert [one["type"] for one in page.told] == ["ringing", "answered"]
        assert (offer.callee, offer.caller, offer.agent) == ("bestellung", "browser", AGENT)
        assert (offer.state.codec, offer.state.rate_hz) == ("L16", 16000)
        await page.say(type="hang_up")
        assert (await page.end())["termination"]["reason"] == "caller_hung_up"
        offered, ended = await here.event(CallOffered), await here.event(CallEnded)
        assert (offered.entrance, ended.termination.reason) == ("browser", Reason.CALLER_HUNG_UP)
        assert (await here.event(CallAnswered)).rate_hz == 16000


async def test_audio_passes_both_ways_at_16_khz(server):
    async with world(server) as here:
        worker, page, offer = await here.talking()
        await asyncio.gather(page.speak(VOICE), speak(worker, offer, VOICE))
        await page.until(lambda: len(page.heard) >= len(VOICE) - 2 * FRAME)
        said = b"".join(frame.payload for frame in worker.frames)
        assert best_correlation(VOICE[: len(VOICE) // 4], said)[0] > 0.98
        assert best_correlation(VOICE[: len(VOICE) // 4], bytes(page.heard))[0] > 0.98
        assert page.positions == list(range(0, 320 * len(page.positions), 320))
        assert {frame.codec for frame in worker.frames} == {Codec.PCM16_16000}


async def test_the_worker_hears_what_the_page_has_played_not_what_was_sent(server):
    async with world(server) as here:
        worker, page, offer = await here.talking()
        page.plays = False
        await speak(worker, offer, VOICE[: 10 * FRAME])
        await page.until(lambda: len(page.heard) == 10 * FRAME)
        await page.send(bytes(FRAME))
        count = len(worker.frames)
        await here.until(lambda: len(worker.frames) > count + 3)
        assert worker.frames[-1].played == 0
        page.position = 1000
        await page.send(bytes(FRAME))
        await here.until(lambda: worker.frames[-1].played == 1000)
        await page.leave()
        await here.event(CallEnded)


async def test_a_flush_reaches_the_page_and_is_acknowledged_with_the_samples_that_it_played(server):
    async with world(server) as here:
        worker, page, offer = await here.talking()
        page.plays = False
        for number in range(10):
            says(worker, offer, number, bytes(FRAME))
        await page.until(lambda: len(page.heard) >= 5 * FRAME)
        page.position = 777
        says(worker, offer, 10, flush=True)
        await page.message("flush")
        await here.until(lambda: any(frame.flags & Flag.FLUSHED for frame in worker.frames))
        assert next(frame for frame in worker.frames if frame.flags & Flag.FLUSHED).played == 777
        assert len(page.heard) < 10 * FRAME


async def test_a_page_that_sends_nothing_gives_the_agent_silence_at_50_frames_a_second(server):
    async with world(server) as here:
        worker, _, _ = await here.talking()
        await asyncio.sleep(0.5)
        await here.until(lambda: len(worker.frames) >= 20)
        assert {frame.payload for frame in worker.frames} == {bytes(FRAME)}


async def test_keys_reach_the_agent(server):
    async with world(server) as here:
        worker, page, _ = await here.talking()
        await page.say(type="dtmf", digit="7")
        assert DtmfPressed.model_validate_json(await worker.told.get()).digit == "7"
        assert (await here.event(DtmfReceived)).digit == "7"


async def test_the_agent_hangs_up(server):
    async with world(server) as here:
        worker, page, offer = await here.talking()
        assert (await worker.command(offer, HangUp(epoch=offer.epoch, reason=Reason.AGENT_HUNG_UP))).ok
        assert (await page.end())["termination"]["reason"] == "agent_hung_up"
        assert page.closed[0] == 1000


async def test_a_page_that_is_left_ends_its_call_once(server):
    async with world(server) as here:
        _, page, _ = await here.talking()
        await page.leave()
        ended = await here.event(CallEnded)
        assert ended.termination.reason is Reason.CALLER_HUNG_UP
        await here.until(lambda: len(here.legs) == 0)
        await asyncio.sleep(0.1)
        assert len(here.of(CallEnded)) == 1


async def test_leaving_while_it_rings_cancels(server):
    async with world(server) as here:
        worker = await here.worker(on_offer=accept_unready)
        page = await here.call()
        await worker.offers.get()
        await page.message("ringing")
        await page.leave()
        assert (await here.event(CallEnded)).termination.reason is Reason.CALLER_CANCELLED


async def test_a_connection_that_breaks_is_no_hang_up(server):
    async with world(server) as here:
        _, page, _ = await here.talking()
        page.socket._response.connection.transport.abort()
        assert (await here.event(CallEnded)).termination.reason is Reason.RTP_TIMEOUT


async def test_a_page_that_is_there_and_sends_no_audio_ends_its_call(server, monkeypatch):
    monkeypatch.setattr("services.browser_gateway.call.MEDIA_TIMEOUT_S", 0.2)
    async with world(server) as here:
        _, page, _ = await here.talking()
        assert (await page.end())["termination"]["reason"] == "rtp_timeout"
        assert (await here.event(CallEnded)).termination.reason is Reason.RTP_TIMEOUT


async def test_a_defect_in_reading_ends_that_call_in_order(server, monkeypatch):
    def fail(*_):
        raise RuntimeError("a defect")

    async with world(server) as here:
        _, page, _ = await here.talking()
        monkeypatch.setattr("services.browser_gateway.call.BrowserCall.told", fail)
        await page.say(type="mute", muted=True)
        assert (await page.end())["termination"]["reason"] == "internal_error"
        assert (await here.event(CallEnded)).termination.reason is Reason.INTERNAL_ERROR


async def test_a_page_that_talks_nonsense_is_closed_with_a_reason(server):
    async with world(server) as here:
        _, page, _ = await here.talking()
        for _ in range(60):
            await page.socket.send_str("?")
        await page.until(lambda: page.closed is not None)
        assert page.closed[0] == 4400
        await here.event(CallEnded)


async def test_what_a_page_cannot_do_is_refused_with_a_sentence(server):
    async with world(server) as here:
        worker, page, offer = await here.talking()
        reply = await worker.command(offer, SendDtmf(epoch=offer.epoch, digits="1"))
        assert reply == CommandReply(ok=False, error="'send_dtmf' is not possible on a call from a browser")
        await page.say(type="transfer", target="+49301234567")
        assert (await page.message("refused"))["what"] == "transfer"


async def test_the_page_reads_along_and_only_its_own_call(server):
    async with world(server) as here:
        _, page, offer = await here.talking()
        common = {"org": offer.org, "at": "2026-01-01T00:00:00Z"}
        for call, kind, event in (
            ("01OTHER", "caller.turn", CallerTurn(event_id="o:1", call="01OTHER", item="x", text="geheim", **common)),
            (offer.call, "caller.turn", CallerTurn(event_id="c:1", call=offer.call, item="a", text="Zehn.", **common)),
            (offer.call, "agent.text", AgentText(event_id="c:2", call=offer.call, item="b", from_sample=0,
                                                 text="Gerne.", **common)),
        ):  # fmt: skip
            await here.admin.js.publish(subjects.event(offer.org, call, kind), event.to_json())
        await page.message("transcript", 2)
        lines = [(one["who"], one["text"]) for one in page.told if one["type"] == "transcript"]
        assert lines == [("caller", "Zehn."), ("agent", "Gerne.")]


# -- who gets no agent --------------------------------------------------------------------------------------


async def test_an_unknown_number_is_refused_and_on_record(server):
    async with world(server) as here:
        page = await here.call("nobody")
        assert (await page.end())["termination"]["reason"] == "no_route"
        assert page.closed[0] == 4409
        assert (await here.event(CallEnded)).termination.reason is Reason.NO_ROUTE


async def test_another_organisations_number_does_not_exist(server):
    async with world(server) as here:
        await here.worker()
        page = await here.call("bestellung", org="other")
        assert (await page.end())["termination"]["reason"] == "no_route"
        assert (await here.event(CallOffered)).org == "other"


async def test_a_page_is_told_when_no_agent_takes_the_call(server):
    async with world(server) as here:
        await here.worker(on_offer=refuse)
        page = await here.call()
        assert (await page.end())["termination"]["reason"] == "no_worker"


async def test_the_routes_message_is_played_when_no_agent_takes_the_call(server):
    said = tone(500, 400, 8000)
    fallback = Fallback(kind="message", message_ulaw_b64=base64.b64encode(Law.PCMU.encode(said)).decode())
    async with world(server, AGENT, ROUTE.model_copy(update={"fallback": fallback})) as here:
        await here.worker(on_offer=_failing)
        page = await here.call()
        assert (await page.end())["termination"]["reason"] == "fallback_played"
        assert best_correlation(tone(500, 300, 16000), bytes(page.heard))[0] > 0.95


def _failing(worker, offer):
    worker.later(worker.command(offer, Failed(epoch=offer.epoch, reason=Reason.MODEL_REFUSED)))
    return accept_unready(worker, offer)


async def test_an_organisations_limit_holds_for_pages(server):
    org = OrgConfig(name="default", max_calls=1)
    async with world(server, AGENT, ROUTE, org) as here:
        _, first, _ = await here.talking()
        second = await here.call()
        assert (await second.end())["termination"]["reason"] == "at_capacity"
        await first.leave()
        await here.until(lambda: len(here.legs) == 0)
        third = await here.call()
        await third.message("answered")


async def test_a_full_gateway_refuses_calls_and_leaves_their_records(server):
    async with world(server, browser_max_calls=1) as here:
        await here.talking()
        second = await here.call()
        assert (await second.end())["termination"]["reason"] == "at_capacity"
        assert (await here.event(CallEnded)).termination.reason is Reason.AT_CAPACITY


async def test_a_full_gateway_takes_no_call_over(server):
    async with world(server, browser_max_calls=1) as here:
        _, _, offer = await here.talking()
        token = (await here.token(kind="take_over", call=offer.call)).data["token"]
        page = await here.page(token, "/operator")
        assert "no room" in (await page.end())["detail"]


async def test_strangers_who_say_nothing_keep_nobody_out(server):
    async with world(server) as here:
        await here.worker()
        silent = [await here.page(None) for _ in range(100)]
        await (await here.call()).message("answered")
        await here.until(lambda: sum(page.closed is not None for page in silent) >= 100 - STRANGERS)
        assert len(here.web._connections) <= STRANGERS + 1


async def test_more_connections_than_a_full_gateway_needs_are_not_accepted(server, monkeypatch):
    monkeypatch.setattr("services.browser_gateway.web.LEAVING", 2)
    async with world(server, browser_max_calls=1) as here:
        for _ in range(3):
            await here.page(None)
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await here.page(None)
        assert refused.value.status == 503


# -- who is let in ------------------------------------------------------------------------------------------


async def test_without_a_valid_token_nothing_happens_and_nothing_is_learnt(server):
    async with world(server) as here:
        await here.worker()
        good = (await here.token(kind="call", to="bestellung")).data["token"]
        page = await here.page(good)
        await page.message("answered")
        for token in (good, "x.y", ""):
            stranger = await here.page(token)
            await stranger.until(lambda page=stranger: page.closed is not None)
            assert (stranger.closed[0], stranger.told) == (4401, [])
        nameless = await here.page(None)
        await nameless.say(type="dtmf", digit="1")
        await nameless.until(lambda: nameless.closed is not None)
        assert nameless.closed[0] == 4401
        assert len(here.of(CallOffered)) <= 1


async def test_an_expired_token_is_told_to_be_expired(server):
    async with world(server, browser_token_ttl_s=0.01) as here:
        token = (await here.token(kind="call", to="bestellung")).data["token"]
        await asyncio.sleep(0.02)
        async with here.http.ws_connect(here.base + "/call") as socket:
            await socket.send_json({"type": "hello", "token": token})
            closing = await socket.receive()
            assert (closing.data, closing.extra) == (4401, "expired")


async def test_a_foreign_origin_is_refused_and_a_listed_one_is_not(server):
    async with world(server, browser_allowed_origins="https://console.example.org") as here:
        for origin in ("https://evil.example", "null", "http://localhost:1"):
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                await here.page(None, Origin=origin)
            assert refused.value.status == 403
        for origin in ("https://console.example.org", here.base, f"http://localhost:{here.web.port}"):
            await (await here.page(None, Origin=origin)).leave()


async def test_the_bus_mints_tokens_for_what_makes_sense(server):
    async with world(server) as here:
        minted = await here.token(kind="take_over", call="01J0")
        assert minted.ok
        assert minted.data["url"] == f"http://localhost:{here.web.port}/#take_over={minted.data['token']}"
        assert 59 < minted.data["expires_in_s"] <= 60
        for wrong in ({}, {"kind": "call"}, {"kind": "take_over", "call": "a.b"}, {"kind": "call", "to": 7},
                      {"kind": "call", "to": "x" * 200}):  # fmt: skip
            assert not (await here.token(**wrong)).ok
        assert not (await here.token("a.b", kind="call", to="x")).ok


async def test_the_page_mints_for_itself_on_loopback_only(server):
    async with world(server) as here:
        own = {"Origin": here.base}
        async with here.http.post(here.base + "/token", json={"to": "bestellung"}, headers=own) as response:
            assert response.status == 200
            assert (await response.json())["token"]
        for headers in (
            {},
            {"Origin": "https://evil.example"},
            own | {"X-Forwarded-For": "10.0.0.1"},
            {"Origin": "http://rebound.example", "Host": "rebound.example"},
        ):
            async with here.http.post(here.base + "/token", json={"to": "bestellung"}, headers=headers) as response:
                assert response.status == 403, headers
        for body in ({}, [], {"to": 7}, {"to": "x" * 200}):
            async with here.http.post(here.base + "/token", json=body, headers=own) as response:
                assert response.status == 400, body


async def test_the_page_comes_with_a_policy_that_lets_nothing_foreign_in(server):
    async with world(server) as here:
        for path in ("/", "/page.js"):
            async with here.http.get(here.base + path) as response:
                assert response.status == 200
                policy = response.headers["Content-Security-Policy"]
                assert "default-src 'none'" in policy
                assert "unsafe" not in policy
                assert not re.search(r"(src|href|import)\W+https?:", await response.text())


def test_the_page_has_a_sentence_in_every_language_for_every_end():
    tables = re.findall(
        r"^    reasons: \{$(.*?)^    \},$", (PAGE / "page.js").read_text("utf-8"), re.MULTILINE | re.DOTALL
    )
    assert len(tables) == 2
    for table in tables:
        assert set(re.findall(r'(\w+): "[^"]+[.]"', table)) == {reason.value for reason in Reason}


async def test_agents_of_two_organisations_keep_apart(server):
    agent = AgentConfig(org="acme", name="bestellung")
    route = RouteConfig(org="acme", name="bestellung", match=("acme-shop",), agent="bestellung")
    async with world(server, AGENT, ROUTE, agent, route) as here:
        worker = await here.worker()
        page = await here.call("acme-shop", org="acme")
        await page.message("answered")
        assert (await worker.offers.get()).org == "acme"
