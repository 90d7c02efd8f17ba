"""Who is let in: signed webhooks, signed handshakes, streams with a ticket. Everybody else learns nothing."""

import asyncio
import xml.etree.ElementTree as ET

import aiohttp
import pytest

from libs.contracts.events import CallOffered
from services.twilio_gateway import streams
from tests.unit.twilio_gateway.conftest import PUBLIC_URL, streaming, world
from tests.unit.twilio_gateway.twilio import ACCOUNT

PATHS = ["/voice", "/status", "/calls/x/after", "/calls/x/status", "/calls/x/target", "/calls/x/transfer",
         "/calls/x/announcement"]  # fmt: skip


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("signature", [None, "", "bm8gc2lnbmF0dXJl", "another's"])
async def test_a_wrong_signature_gets_403_and_not_a_word(server, path, signature):
    async with world(server) as here:
        await here.worker()
        form = here.twilio.incoming().form()
        headers = {} if signature is None else {"X-Twilio-Signature": signature}
        if signature == "another's":  # valid for another path
            headers["X-Twilio-Signature"] = here.twilio.validator.compute_signature(f"{PUBLIC_URL}/other", form)
        async with here.twilio.session.post(here.twilio.connect_url + path, data=form, headers=headers) as response:
            assert (response.status, await response.read()) == (403, b"")
        assert here.web.counters["unsigned"] == 1
        assert here.of(CallOffered) == []


async def test_a_changed_form_is_no_longer_signed(server):
    async with world(server) as here:
        form = here.twilio.incoming().form()
        headers = {"X-Twilio-Signature": here.twilio.validator.compute_signature(f"{PUBLIC_URL}/voice", form)}
        forged = form | {"To": "+4930666"}
        async with here.twilio.session.post(here.twilio.connect_url + "/voice", data=forged, headers=headers) as got:
            assert got.status == 403


@pytest.mark.parametrize("host", ["internal:8091", "evil.example", "calls.example.com"])
@pytest.mark.parametrize("prefix", ["", "/callbus"])
async def test_behind_a_proxy_the_public_url_counts_and_the_host_header_does_not(server, host, prefix):
    async with world(server) as here:
        await here.worker()
        form = here.twilio.incoming().form()
        proxied = {"Host": host, "X-Forwarded-Host": "evil.example", "X-Forwarded-Proto": "http"}
        good = {"X-Twilio-Signature": here.twilio.validator.compute_signature(f"{PUBLIC_URL}/voice", form)}
        bad = {"X-Twilio-Signature": here.twilio.validator.compute_signature(f"http://{host}/voice", form)}
        url = f"{here.twilio.connect_url}{prefix}/voice"  # with or without the prefix that the proxy may take off
        async with here.twilio.session.post(url, data=form, headers=proxied | bad) as response:
            assert response.status == 403
        async with here.twilio.session.post(url, data=form, headers=proxied | good) as response:
            assert response.status == 200
            stream = ET.fromstring(await response.text()).find("Connect/Stream")
        assert stream.get("url") == "wss://calls.example.com/callbus/media"


async def test_query_parameters_are_part_of_what_is_signed(server):
    async with world(server) as here:
        await here.worker()
        form = here.twilio.incoming().form()
        url = f"{PUBLIC_URL}/voice?from=console%20page"
        assert (await here.twilio.post(url, form))[0] == 200


async def test_a_public_url_with_a_port_is_signed_either_way(server):
    async with world(server, public_url="https://calls.example.com:8443") as here:
        await here.worker()
        for signed in ("https://calls.example.com:8443/voice", "https://calls.example.com/voice"):
            form = here.twilio.incoming().form()
            headers = {"X-Twilio-Signature": here.twilio.validator.compute_signature(signed, form)}
            async with here.twilio.session.post(here.twilio.connect_url + "/voice", data=form, headers=headers) as got:
                assert got.status == 200


async def test_a_form_that_is_too_large_is_refused(server):
    async with world(server) as here:
        response = await here.twilio.session.post(here.twilio.connect_url + "/voice", data={"a": "x" * 70_000})
        assert response.status == 413
        response.close()


# -- streams ----------------------------------------------------------------------------------------------------------

MEDIA = "wss://calls.example.com/callbus/media"


async def closed(socket) -> int | None:
    """The code with which the gateway closes; nothing else may come."""
    message = await asyncio.wait_for(socket.receive(), 5)
    assert message.type is aiohttp.WSMsgType.CLOSE
    return message.data


def start(call_sid: str, token: str | None) -> dict:
    parameters = {} if token is None else {"token": token}
    return {"event": "start", "sequenceNumber": "1", "streamSid": "MZ1", "start": {
        "streamSid": "MZ1", "accountSid": ACCOUNT, "callSid": call_sid, "customParameters": parameters}}  # fmt: skip


async def test_a_handshake_without_twilios_signature_gets_403(server):
    async with world(server) as here:
        call = here.twilio.incoming()
        for signature in ("", "bm8=", here.twilio.validator.compute_signature("https://calls.example.com/media", {})):
            with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
                await call.open(MEDIA, **{"X-Twilio-Signature": signature})
            assert caught.value.status == 403


async def ticket_of(here, call) -> str:
    _, text = await here.twilio.post(f"{PUBLIC_URL}/voice", call.form())
    return ET.fromstring(text).find("Connect/Stream/Parameter[@name='token']").get("value")


@pytest.mark.parametrize("token", [None, "", "guessed"])
async def test_a_stream_without_a_ticket_is_closed(server, token):
    async with world(server) as here:
        await here.worker()
        call = here.twilio.incoming()
        await ticket_of(here, call)
        socket = await call.open(MEDIA)
        await socket.send_json({"event": "connected"})
        await socket.send_json(start(call.sid, token))
        assert await closed(socket) == 1008
        assert here.gateway.streams.counters["streams_refused"] == 1


async def test_a_ticket_is_of_use_once(server):
    async with world(server) as here:
        worker = await here.worker()
        call, _ = await streaming(here, worker)
        socket = await call.open(MEDIA)
        await socket.send_json(start(call.sid, call.parameters["token"]))
        assert await closed(socket) == 1008
        await call.says(bytes(320))
        assert call.socket is not None


async def test_a_ticket_is_of_no_use_to_another_call(server):
    async with world(server) as here:
        await here.worker()
        call = here.twilio.incoming()
        token = await ticket_of(here, call)
        socket = await call.open(MEDIA)
        await socket.send_json(start("CA" + "f" * 32, token))
        assert await closed(socket) == 1008


async def test_a_ticket_is_of_no_use_later(server, monkeypatch):
    monkeypatch.setattr(streams, "TICKET_VALID_S", -1.0)
    async with world(server) as here:
        await here.worker()
        call = here.twilio.incoming()
        token = await ticket_of(here, call)
        socket = await call.open(MEDIA)
        await socket.send_json(start(call.sid, token))
        assert await closed(socket) == 1008


async def test_a_stream_that_does_not_say_whose_it_is_is_closed(server, monkeypatch):
    monkeypatch.setattr(streams, "START_WITHIN_S", 0.1)
    async with world(server) as here:
        socket = await here.twilio.incoming().open(MEDIA)
        await socket.send_json({"event": "connected", "protocol": "Call", "version": "1.0.0"})
        assert await closed(socket) == 1008


async def test_for_tests_unsigned_requests_may_be_taken_on_loopback(server):
    async with world(server, twilio_auth_token=None, twilio_allow_unsigned=True) as here:
        await here.worker()
        form = here.twilio.incoming().form()
        async with here.twilio.session.post(here.twilio.connect_url + "/voice", data=form) as response:
            assert response.status == 200
