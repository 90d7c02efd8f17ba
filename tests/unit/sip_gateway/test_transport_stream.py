"""Calls over TCP, TLS and IPv6 into a `SipTransport`, and what peers cannot do with connections."""

import asyncio
import re
import socket
import ssl
from contextlib import suppress
from dataclasses import replace
from ipaddress import ip_network

import pytest
import uvloop

from libs.sip.events import Confirmed, Ended, IncomingCall, Rejected, Send
from libs.sip.registration import Registered, RegistrationConfig, RegistrationFailed, Unregistered
from libs.sip.sdp import LocalMedia, make_offer
from libs.sip.stream import PING, PONG, StreamFramer
from libs.sip.user_agent import OutgoingCall, UaConfig
from libs.softphone.phone import CallRejected, PhoneTls, Softphone
from services.sip_gateway.stream import StreamLimits, TlsFiles
from services.sip_gateway.transport import Local, SipTransport
from tests.support.certificates import make_certificates

LOOPBACK = (ip_network("127.0.0.0/8"), ip_network("::1/128"))
HOSTS = {"127.0.0.1": "127.0.0.1", "::1": "[::1]"}


@pytest.fixture(scope="session")
def certificates(tmp_path_factory):
    return make_certificates(tmp_path_factory.mktemp("tls"))


class Gateway:
    """A transport whose application takes every call."""

    def __init__(self, certificates, host="127.0.0.1", answers=True, allowed=LOOPBACK, **options) -> None:
        self.events = []
        self.changed = asyncio.Event()
        self._answers = answers
        tls = TlsFiles(certificates.certificate, certificates.key, certificates.ca)
        self.sip = SipTransport(host, None, allowed, self.take, **{"tls": tls, **options})

    def take(self, local, event) -> None:
        self.events.append((local, event))
        self.changed.set()
        if isinstance(event, IncomingCall) and self._answers:
            sdp = make_offer(LocalMedia(local.host, 4000, codecs=("PCMU",), session_id=1)).serialize()
            core, now = self.sip.core(local), asyncio.get_running_loop().time()
            self.sip.perform(local, core.answer(event.dialog, sdp, now))

    async def event(self, kind):
        async with asyncio.timeout(5):
            while True:
                found = [(local, event) for local, event in self.events if isinstance(event, kind)]
                if found:
                    return found[0]
                self.changed.clear()
                await self.changed.wait()

    async def until(self, happened) -> None:
        async with asyncio.timeout(5):
            while not happened():  # noqa: ASYNC110  counters have no event
                await asyncio.sleep(0.005)


@pytest.fixture
async def make(certificates):
    opened = []

    async def gateway(**options):
        made = Gateway(certificates, **options)
        opened.append(made.sip)
        await made.sip.open(0, 0, 0)
        return made

    yield gateway
    for sip in opened:
        sip.close()


@pytest.fixture
async def silent_port():
    writers = []
    server = await asyncio.start_server(lambda reader, writer: writers.append(writer), "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()
    for writer in writers:
        writer.transport.abort()


def phone_tls(certificates) -> PhoneTls:
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(certificates.certificate, certificates.key)
    return PhoneTls(ssl.create_default_context(cafile=certificates.ca), server)


async def phone(certificates, transport="tcp", host="127.0.0.1") -> Softphone:
    return await Softphone.open(host, transport=transport, tls=phone_tls(certificates))


def uri(gateway: Gateway, transport: str, host: str = "127.0.0.1") -> str:
    return f"sip:x@{HOSTS[host]}:{gateway.sip.ports[transport]};transport={transport}"


def options(transport: str = "TCP", branch: str = "z9hG4bK1") -> bytes:
    return (
        f"OPTIONS sip:x@127.0.0.1 SIP/2.0\r\nVia: SIP/2.0/{transport} 127.0.0.1;branch={branch}\r\n"
        "From: <sip:a@127.0.0.1>;tag=1\r\nTo: <sip:x@127.0.0.1>\r\nCall-ID: c1\r\nCSeq: 1 OPTIONS\r\n"
        "Max-Forwards: 70\r\nContent-Length: 0\r\n\r\n"
    ).encode()


# -- calls -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("transport", ["udp", "tcp", "tls"])
async def test_a_call_is_answered_and_ended_over(make, certificates, transport, host):
    gateway = await make(host=host)
    async with await phone(certificates, transport, host) as caller:
        call = await caller.call(uri(gateway, transport, host), timeout_s=5)
        local, _ = await gateway.event(Confirmed)
        assert local == Local(host, transport)
        await call.hang_up()
        _, ended = await gateway.event(Ended)
        assert ended.cause == "remote_bye"
    contact = gateway.sip.core(local)._contact[1]
    assert contact.startswith(f"<sip:callbus@{HOSTS[host]}:{gateway.sip.ports[transport]}")
    assert transport == "udp" or contact.endswith(f";transport={transport}>")
    assert gateway.sip.counters["defects"] == 0


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("transport", ["udp", "tcp", "tls"])
async def test_a_gateway_on_both_ip_versions_takes_calls_of_both(make, certificates, transport, host):
    gateway = await make(host="::")
    async with await phone(certificates, transport, host) as caller:
        call = await caller.call(uri(gateway, transport, host), timeout_s=5)
        local, _ = await gateway.event(Confirmed)
        assert local == Local(host, transport)
        await call.hang_up()


@pytest.mark.parametrize("transport", ["tcp", "tls"])
async def test_a_call_of_ours_ends_over_the_connection_that_it_began_on(make, certificates, transport):
    gateway, callee = await make(answers=False), await make()
    here = Local("127.0.0.1", transport)
    gateway.sip.allow("127.0.0.1", "sip.example")
    core, now = gateway.sip.core(here), asyncio.get_running_loop().time()
    sdp = make_offer(LocalMedia("127.0.0.1", 4000, session_id=1)).serialize()
    placed = OutgoingCall(uri(callee, transport), ("127.0.0.1", callee.sip.ports[transport]), "sip:a@b", sdp=sdp)
    dialog, actions = core.invite(placed, now)
    gateway.sip.perform(here, actions)
    await callee.event(Confirmed)
    gateway.sip.perform(here, core.bye(dialog, now))
    await callee.event(Ended)
    await gateway.until(lambda: core.is_settled)
    assert gateway.sip.counters["connections_opened"] == callee.sip.counters["connections_accepted"] == 1
    assert callee.sip.counters["connections_opened"] == 0


async def test_our_bye_finds_its_way_when_the_caller_lost_the_connection(make, certificates):
    gateway = await make()
    async with await phone(certificates) as caller:
        call = await caller.call(uri(gateway, "tcp"), timeout_s=5)
        local, event = await gateway.event(Confirmed)
        caller.streams.drop()
        await gateway.until(lambda: gateway.sip.connections == 0)
        gateway.sip.perform(local, gateway.sip.core(local).bye(event.dialog, asyncio.get_running_loop().time()))
        assert (await call.wait_ended(5)).cause == "remote_bye"


def test_a_call_over_tls_succeeds_on_uvloop(certificates):
    async def scene() -> None:
        gateway = Gateway(certificates)
        await gateway.sip.open(0, 0, 0)
        async with await phone(certificates, "tls") as caller:
            call = await caller.call(uri(gateway, "tls"), timeout_s=5)
            await gateway.event(Confirmed)
            await call.hang_up()
            await gateway.event(Ended)
        gateway.sip.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(scene())


# -- connections that fail -------------------------------------------------------------------------------------


def registration(port: int) -> RegistrationConfig:
    return RegistrationConfig("sip:sip.example", "sip:u@sip.example", "u", "p", ("127.0.0.1", port))


async def closed_port() -> int:
    server = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    return port


class Registrar:
    """Takes every registration and says 404 to calls; `pings` counts empty lines."""

    def __init__(self) -> None:
        self.connections = []
        self.registered = asyncio.Event()
        self.pinged = asyncio.Event()

    async def serve(self, reader, writer) -> None:
        self.connections.append(writer)
        framer = StreamFramer()
        while data := await reader.read(4096):
            for message in framer.feed(data):
                if message == PING:
                    self.pinged.set()
                    writer.write(PONG)
                    continue
                lines = message.decode().split("\r\n")
                head = [line for line in lines if line.startswith(("Via", "From", "To", "Call-ID", "CSeq"))]
                writer.write(
                    "\r\n".join(["SIP/2.0 200 OK", *head, "Expires: 600", "Content-Length: 0", "", ""]).encode()
                )
                self.registered.set()
        writer.close()


@pytest.fixture
async def registrar():
    made = Registrar()
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.port = server.sockets[0].getsockname()[1]
    yield made
    server.close()
    for writer in made.connections:
        writer.transport.abort()


async def test_a_registered_connection_is_kept_open_pinged_and_made_anew_when_it_breaks(make, registrar):
    gateway = await make(limits=StreamLimits(idle_s=0.05))
    here, now = Local("127.0.0.1", "tcp"), asyncio.get_running_loop().time()
    core = gateway.sip.core(here)
    settings = replace(registration(registrar.port), keep_alive_s=0.1, retry_s=0.02)
    gateway.sip.perform(here, core.register("t", settings, now))
    await gateway.event(Registered)
    await asyncio.wait_for(registrar.pinged.wait(), 5)
    assert len(registrar.connections) == 1
    registrar.registered.clear()
    registrar.connections[0].transport.abort()
    await asyncio.wait_for(registrar.registered.wait(), 5)
    assert len(registrar.connections) == 2
    assert gateway.sip.counters["defects"] == 0


async def test_a_connection_that_nobody_needs_any_more_is_closed(make, registrar):
    gateway = await make(limits=StreamLimits(idle_s=0.05))
    here, now = Local("127.0.0.1", "tcp"), asyncio.get_running_loop().time()
    core = gateway.sip.core(here)
    gateway.sip.perform(here, core.register("t", registration(registrar.port), now))
    await gateway.event(Registered)
    gateway.sip.perform(here, core.unregister("t", now))
    await gateway.event(Unregistered)
    await gateway.until(lambda: gateway.sip.connections == 0)
    assert gateway.sip.counters["stream_idle"] == 1


async def test_a_network_that_returned_registers_anew(make, registrar):
    gateway = await make()
    here, now = Local("127.0.0.1", "tcp"), asyncio.get_running_loop().time()
    gateway.sip.perform(here, gateway.sip.core(here).register("t", registration(registrar.port), now))
    await gateway.event(Registered)
    registrar.registered.clear()
    gateway.sip.network_returned()
    await asyncio.wait_for(registrar.registered.wait(), 5)
    assert gateway.sip.route_towards("127.0.0.1") == "127.0.0.1"


@pytest.mark.parametrize(
    ("host", "family"), [("127.0.0.1", socket.AF_INET), ("::1", socket.AF_INET6), ("::", socket.AF_UNSPEC)]
)
async def test_the_family_says_which_servers_can_be_reached(certificates, host, family):
    assert Gateway(certificates, host).sip.family == family


async def test_the_template_gives_all_user_agents_their_settings(make):
    gateway = await make(template=UaConfig("", 0, user_agent="pbx", codecs=("PCMA",)))
    reader, writer = await connect(gateway)
    writer.write(options())
    assert b"Server: pbx" in await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
    writer.close()


@pytest.mark.parametrize("transport", ["tcp", "tls"])
async def test_a_server_that_refuses_the_connection_fails_the_registration_at_once(make, transport):
    gateway = await make()
    here = Local("127.0.0.1", transport)
    core = gateway.sip.core(here)
    gateway.sip.perform(here, core.register("t", registration(await closed_port()), asyncio.get_running_loop().time()))
    _, failed = await gateway.event(RegistrationFailed)
    assert failed.status is None
    assert gateway.sip.counters["connect_failed"] == 1
    assert gateway.sip.connections == 0


async def test_a_certificate_for_another_name_fails_the_registration(make):
    gateway, provider = await make(), await make()
    gateway.sip.allow("127.0.0.1", "other.example")
    here = Local("127.0.0.1", "tls")
    core = gateway.sip.core(here)
    steps = core.register("t", registration(provider.sip.ports["tls"]), asyncio.get_running_loop().time())
    gateway.sip.perform(here, steps)
    await gateway.event(RegistrationFailed)
    assert provider.sip.counters["received"] == 0


async def test_without_verification_any_certificate_will_do(make, certificates):
    provider = await make()
    caller = SipTransport("127.0.0.1", None, LOOPBACK, lambda local, event: None, tls=TlsFiles(verify=False))
    await caller.open(0)
    caller.allow("127.0.0.1", "other.example")
    caller.perform(Local("127.0.0.1", "tls"), [Send(options("TLS"), ("127.0.0.1", provider.sip.ports["tls"]))])
    await provider.until(lambda: provider.sip.counters["received"] == 1)
    caller.close()


async def test_a_phone_hears_at_once_that_nobody_listens(certificates):
    async with await phone(certificates) as caller:
        with pytest.raises(CallRejected) as refused:
            await caller.call(f"sip:x@127.0.0.1:{await closed_port()};transport=tcp", timeout_s=5)
    assert refused.value.status == 503


async def test_a_connection_that_breaks_while_it_rings_fails_the_call(make, certificates):
    gateway, callee = await make(), await make(answers=False)
    here = Local("127.0.0.1", "tcp")
    core = gateway.sip.core(here)
    sdp = make_offer(LocalMedia("127.0.0.1", 4000, session_id=1)).serialize()
    placed = OutgoingCall(uri(callee, "tcp"), ("127.0.0.1", callee.sip.ports["tcp"]), "sip:a@b", sdp=sdp)
    _, actions = core.invite(placed, asyncio.get_running_loop().time())
    gateway.sip.perform(here, actions)
    await callee.event(IncomingCall)
    callee.sip.close()
    _, rejected = await gateway.event(Rejected)
    assert rejected.status == 503


async def test_a_server_that_accepts_and_never_speaks_tls_is_given_up(make, silent_port):
    gateway = await make(limits=StreamLimits(connect_s=0.1))
    here = Local("127.0.0.1", "tls")
    steps = gateway.sip.core(here).register("t", registration(silent_port), asyncio.get_running_loop().time())
    gateway.sip.perform(here, steps)
    await gateway.event(RegistrationFailed)


# -- what peers cannot do --------------------------------------------------------------------------------------


async def connect(gateway: Gateway, transport: str = "tcp", **options):
    return await asyncio.open_connection("127.0.0.1", gateway.sip.ports[transport], **options)


async def all_of(reader) -> bytes:
    try:
        return await asyncio.wait_for(reader.read(), 5)
    except ConnectionResetError:
        return b""


@pytest.mark.parametrize("transport", ["tcp", "tls"])
async def test_a_source_that_is_not_allowed_gets_no_byte(make, transport):
    gateway = await make(allowed=(ip_network("10.0.0.0/8"),))
    reader, writer = await connect(gateway, transport)
    writer.write(options())
    assert await all_of(reader) == b""
    assert gateway.sip.counters["source_not_allowed"] == 1
    assert gateway.sip.counters["received"] == 0
    writer.close()


async def test_nobody_takes_the_place_of_a_tls_server_by_connecting_from_its_address(make):
    gateway = await make()
    impostor = socket.create_server(("127.0.0.1", 0))
    address = impostor.getsockname()
    impostor.close()
    gateway.sip.allow("127.0.0.1", "sip.example")
    gateway.sip.perform(Local("127.0.0.1", "tls"), [Send(options("TLS"), address)])
    await gateway.until(lambda: gateway.sip.counters["connect_failed"])
    reader, writer = await connect(gateway, "tls", local_addr=address)
    assert await all_of(reader) == b""
    assert gateway.sip.counters["server_not_verified"] == 1
    writer.close()


async def test_a_thousand_requests_in_one_go_are_answered_and_hold_up_nobody(make):
    gateway = await make()
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.sip.ports["tcp"])
    turns = asyncio.create_task(count_turns())
    writer.write(b"".join(options(branch=f"z9hG4bK{number}") for number in range(1000)))
    answers = b""
    async with asyncio.timeout(10):
        while answers.count(b"SIP/2.0 200") < 1000:
            answers += await reader.read(65536)
    turns.cancel()
    writer.close()
    found = re.findall(rb"branch=z9hG4bK([0-9]+)", answers)
    assert [int(number) for number in found] == list(range(1000))
    assert await turns > 20


async def count_turns() -> int:
    """How often somebody else had the loop for a moment."""
    number = 0
    with suppress(asyncio.CancelledError):
        while True:
            await asyncio.sleep(0.001)
            number += 1
    return number


async def test_requests_in_pieces_and_in_one_piece_are_answered_in_order(make):
    gateway = await make()
    reader, writer = await connect(gateway)
    first, second = options(), options(branch="z9hG4bK2")
    for piece in (first[:40], first[40:] + second[:3], second[3:] + b"\r\n\r\n"):
        writer.write(piece)
        await writer.drain()
        await asyncio.sleep(0)
    answers = await asyncio.wait_for(reader.readuntil(b"Content-Length: 0\r\n\r\n"), 5)
    answers += await asyncio.wait_for(reader.readuntil(b"Content-Length: 0\r\n\r\n"), 5)
    assert answers.count(b"SIP/2.0 200 OK") == 2
    assert await asyncio.wait_for(reader.readexactly(2), 5) == b"\r\n"  # the pong
    writer.close()


@pytest.mark.parametrize("sent", [b"", b"OPTIONS sip:x@127", options()])
async def test_a_connection_without_a_complete_message_is_closed(make, sent):
    gateway = await make(limits=StreamLimits(idle_s=0.1))
    reader, writer = await connect(gateway)
    writer.write(sent)
    answer = await all_of(reader)
    assert (b"200 OK" in answer) == (sent == options())
    assert gateway.sip.counters["stream_idle"] == 1
    assert gateway.sip.connections == 0
    writer.close()


async def test_a_slow_sender_of_single_bytes_does_not_keep_its_connection(make):
    gateway = await make(limits=StreamLimits(idle_s=0.15))
    reader, writer = await connect(gateway)
    sent = 0
    while gateway.sip.connections or not sent:
        writer.write(b"A")
        sent += 1
        await asyncio.sleep(0.02)
    assert sent < 50
    assert await all_of(reader) == b""
    writer.close()


async def test_a_connection_with_a_call_stays(make, certificates):
    gateway = await make(limits=StreamLimits(idle_s=0.05))
    async with await phone(certificates) as caller:
        call = await caller.call(uri(gateway, "tcp"), timeout_s=5)
        await gateway.event(Confirmed)
        await asyncio.sleep(0.2)
        assert gateway.sip.connections == 1
        await call.hang_up()


async def test_garbage_ends_its_connection_and_no_other(make):
    gateway = await make()
    reader, writer = await connect(gateway)
    other_reader, other = await connect(gateway)
    writer.write(b"A" * 20_000)
    assert await all_of(reader) == b""
    assert gateway.sip.counters["stream_broken"] == 1
    other.write(options())
    assert b"200 OK" in await asyncio.wait_for(other_reader.readuntil(b"\r\n"), 5)
    writer.close()
    other.close()


async def test_one_source_has_no_more_connections_than_its_share(make):
    gateway = await make(limits=StreamLimits(per_source=2))
    kept = [await connect(gateway) for _ in range(2)]
    await gateway.until(lambda: gateway.sip.connections == 2)
    reader, writer = await connect(gateway)
    assert await all_of(reader) == b""
    assert gateway.sip.counters["too_many_connections"] == 1
    for _, each in [*kept, (reader, writer)]:
        each.close()


async def test_who_does_not_read_is_dropped_before_the_buffer_grows(make):
    gateway = await make(limits=StreamLimits(unsent_bytes=10_000))
    _, writer = await connect(gateway)
    writer.transport.pause_reading()
    await gateway.until(lambda: gateway.sip.connections == 1)
    for number in range(100_000):
        if gateway.sip.counters["stream_unsent"]:
            break
        writer.write(options(branch=f"z9hG4bK{number}"))
        if number % 50 == 0:
            await asyncio.sleep(0)
    await gateway.until(lambda: gateway.sip.connections == 0)
    writer.transport.abort()


async def test_what_cannot_be_sent_yet_is_bounded_too(make, silent_port):
    gateway = await make(limits=StreamLimits(unsent_bytes=1000))
    peer = ("127.0.0.1", silent_port)
    gateway.sip.perform(Local("127.0.0.1", "tls"), [Send(b"x" * 600, peer)] * 5)
    assert gateway.sip.counters["stream_unsent"] == 1


async def test_the_hook_sees_every_message_and_its_defect_costs_none(make):
    gateway = await make()
    seen = []

    def watch(*what):
        seen.append(what)
        raise ZeroDivisionError

    gateway.sip.on_message = watch
    reader, writer = await connect(gateway)
    writer.write(options())
    assert b"200 OK" in await asyncio.wait_for(reader.readuntil(b"\r\n"), 5)
    own, peer = f"127.0.0.1:{gateway.sip.ports['tcp']}", "{}:{}".format(*writer.get_extra_info("sockname"))
    assert [what[:4] for what in seen] == [("in", "tcp", own, peer), ("out", "tcp", own, peer)]
    assert seen[0][4] == options()
    writer.close()


def test_a_tls_port_without_a_certificate_is_said_at_once():
    with pytest.raises(FileNotFoundError, match="certificate"):
        TlsFiles().server_context()
