"""Whole calls through the gateway, with sound, over every transport and both IP versions; a trunk over TLS."""

import asyncio
import ssl

import pytest

from libs.contracts.events import CallEnded
from libs.contracts.termination import Reason
from libs.sip.stream import StreamFramer
from libs.softphone.phone import PhoneTls, Softphone
from tests.support.certificates import make_certificates
from tests.unit.sip_gateway.conftest import world
from tests.unit.sip_gateway.test_gateway import VOICE, is_heard, speak


@pytest.fixture(scope="session")
def certificates(tmp_path_factory):
    return make_certificates(tmp_path_factory.mktemp("tls"))


@pytest.mark.parametrize(
    ("transport", "host"), [("tcp", "127.0.0.1"), ("tls", "127.0.0.1"), ("udp", "::1"), ("tls", "::1")]
)
async def test_a_call_has_sound_both_ways_and_ends(server, certificates, transport, host):
    files = {"sip_tls_cert": certificates.certificate, "sip_tls_key": certificates.key}
    tls = PhoneTls(ssl.create_default_context(cafile=certificates.ca))
    async with world(server, sip_listen_host="::", sip_tcp_port=0, sip_tls_port=0, **files) as here:
        worker = await here.worker()
        address = f"{f'[{host}]' if ':' in host else host}:{here.gateway.transport.ports[transport]}"
        async with await Softphone.open(host, transport=transport, tls=tls) as phone:
            call = await phone.call(f"sip:bestellung@{address};transport={transport}", timeout_s=5)
            offer = await worker.offers.get()
            await speak(worker, offer)
            await call.play(VOICE).wait()
            await asyncio.sleep(0.1)
            assert is_heard(bytes(call.heard))
            assert is_heard(b"".join(frame.payload for frame in worker.frames))
            await call.hang_up()
            ended = await here.event(CallEnded)
        assert ended.termination.reason is Reason.CALLER_HUNG_UP
        assert here.gateway.transport.counters["defects"] == 0


async def test_a_trunk_registers_over_tls_with_a_server_whose_certificate_names_it(server, certificates):
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificates.certificate, certificates.key)
    registered: asyncio.Queue[str] = asyncio.Queue()

    async def serve(reader, writer) -> None:
        framer = StreamFramer()
        while data := await reader.read(4096):
            for message in framer.feed(data):
                lines = message.decode().split("\r\n")
                echoed = [
                    line for line in lines if line.startswith(("Via", "From", "To", "Call-ID", "CSeq", "Contact"))
                ]
                writer.write("\r\n".join(["SIP/2.0 200 OK", *echoed, "Content-Length: 0", "", ""]).encode())
                registered.put_nowait(message.decode())
        writer.close()

    provider = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    trunk = {
        "sip_server": "localhost", "sip_port": provider.sockets[0].getsockname()[1], "sip_transport": "tls",
        "sip_username": "u", "sip_password": "p", "sip_tls_ca": certificates.ca,
    }  # fmt: skip
    async with provider, world(server, **trunk) as here:
        request = await asyncio.wait_for(registered.get(), 5)
        assert request.startswith("REGISTER sip:localhost SIP/2.0\r\nVia: SIP/2.0/TLS 127.0.0.1:")
        assert ";transport=tls>" in next(line for line in request.split("\r\n") if line.startswith("Contact"))
        (found,) = here.gateway.trunks
        await here.until(lambda: found.state == "registered")
        assert here.gateway.transport.connections == 1
        await here.gateway.leave()
        assert "expires=0" in await asyncio.wait_for(registered.get(), 5)
