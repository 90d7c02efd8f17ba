"""The SIP socket: who gets an answer, from which address, and what is repeated when nobody answers us."""

import asyncio
from ipaddress import ip_network

import pytest
import uvloop

from libs.sip.events import Confirmed, Ended, IncomingCall, Send
from services.sip_gateway import transport as transport_module
from services.sip_gateway.transport import Local, SipTransport, local_address_towards

LOOPBACK = (ip_network("127.0.0.0/8"), ip_network("::1/128"))


class Peer(asyncio.DatagramProtocol):
    def __init__(self) -> None:
        self.got: asyncio.Queue[bytes] = asyncio.Queue()

    def connection_made(self, transport) -> None:
        self.transport = transport
        self.port = transport.get_extra_info("sockname")[1]

    def datagram_received(self, data: bytes, addr) -> None:
        self.got.put_nowait(data)

    async def next(self) -> str:
        return (await asyncio.wait_for(self.got.get(), 3)).decode()


@pytest.fixture
async def make():
    opened, peers = [], []

    async def sip(**options):
        events = []
        options = {"host": "127.0.0.1", "public_host": None, "allowed": LOOPBACK} | options
        options = {"on_event": lambda local, event: events.append((local, event))} | options
        made = SipTransport(**options)
        made.events = events
        opened.append(made)
        await made.open(0)
        return made

    async def peer(host="127.0.0.1"):
        _, made = await asyncio.get_running_loop().create_datagram_endpoint(Peer, (host, 0))
        peers.append(made)
        return made

    sip.peer = peer
    yield sip
    for each in opened:
        each.close()
    for each in peers:
        each.transport.close()


def options(port: int, host: str = "127.0.0.1") -> bytes:
    return (
        f"OPTIONS sip:x@{host} SIP/2.0\r\nVia: SIP/2.0/UDP {host}:{port};branch=z9hG4bK1;rport\r\n"
        f"From: <sip:a@{host}>;tag=1\r\nTo: <sip:x@{host}>\r\nCall-ID: c1\r\nCSeq: 1 OPTIONS\r\n"
        "Max-Forwards: 70\r\nContent-Length: 0\r\n\r\n"
    ).encode()


SDP = "v=0\r\no=a 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=audio 4000 RTP/AVP 0\r\n"


def invite(port: int) -> bytes:
    head = options(port).decode().replace("OPTIONS", "INVITE").replace("Content-Length: 0\r\n\r\n", "")
    contact = f"Contact: <sip:a@127.0.0.1:{port}>\r\nContent-Type: application/sdp\r\n"
    return f"{head}{contact}Content-Length: {len(SDP)}\r\n\r\n{SDP}".encode()


async def test_a_source_outside_the_allowed_networks_gets_nothing_and_is_counted(make):
    closed = await make(allowed=(ip_network("10.0.0.0/8"),))
    open_one = await make()
    peer = await make.peer()
    peer.transport.sendto(options(peer.port), ("127.0.0.1", closed.port))
    peer.transport.sendto(b"garbage", ("127.0.0.1", closed.port))
    peer.transport.sendto(options(peer.port), ("127.0.0.1", open_one.port))
    assert "200 OK" in await peer.next()
    assert peer.got.empty()
    assert closed.counters["source_not_allowed"] == 2
    assert closed.counters["sent"] == 0
    assert closed.events == []


async def test_contact_names_the_address_on_the_route_to_each_source(make, monkeypatch):
    routes = {"127.0.0.1": "192.0.2.1", "127.0.0.2": "198.51.100.1"}
    monkeypatch.setattr(transport_module, "local_address_towards", routes.__getitem__)
    sip = await make(host="0.0.0.0")
    contacts = []
    for host in routes:
        peer = await make.peer(host)
        peer.transport.sendto(options(peer.port, host), ("127.0.0.1", sip.port))
        contacts.append(next(line for line in (await peer.next()).split("\r\n") if line.startswith("Contact")))
    assert [address in contact for address, contact in zip(routes.values(), contacts, strict=True)] == [True, True]
    assert sip.core(Local("192.0.2.1")) is not sip.core(Local("198.51.100.1"))


async def test_a_public_address_stands_in_contact_for_everyone(make):
    sip = await make(host="0.0.0.0", public_host="203.0.113.9")
    peer = await make.peer()
    peer.transport.sendto(options(peer.port), ("127.0.0.1", sip.port))
    assert f"203.0.113.9:{sip.port}" in await peer.next()


def test_the_address_towards_loopback_is_loopback():
    assert local_address_towards("127.0.0.1") == "127.0.0.1"
    assert local_address_towards("::1") == "::1"


async def test_an_ipv4_source_on_a_dual_stack_socket_is_judged_by_its_ipv4_address(make):
    sip = await make(host="127.0.0.1")
    peer = await make.peer()
    sip.datagram_received(options(peer.port), ("::ffff:127.0.0.1", peer.port))
    sip.datagram_received(options(peer.port), ("::ffff:8.8.8.8", peer.port))
    assert sip.counters["source_not_allowed"] == 1


async def test_a_200_is_repeated_until_its_ack_comes_and_given_up_after_32_seconds(make):
    sip = await make()
    peer = await make.peer()
    peer.transport.sendto(invite(peer.port), ("127.0.0.1", sip.port))
    assert "100 Trying" in await peer.next()
    ((local, event),) = sip.events
    assert isinstance(event, IncomingCall)
    core = sip.core(local)
    sip.perform(local, core.answer(event.dialog, SDP, asyncio.get_running_loop().time()))
    assert "200 OK" in await peer.next()
    assert "200 OK" in await peer.next()  # T1 later
    sip.perform(local, core.expire(asyncio.get_running_loop().time() + 33))
    ended = [event for _, event in sip.events if isinstance(event, Ended)]
    assert [event.cause for event in ended] == ["no_ack"]


async def test_garbage_is_counted_and_the_next_request_is_served(make):
    sip = await make()
    peer = await make.peer()
    for rubbish in (b"\xff\x00" * 700, b"INVITE", b"SIP/2.0 200 OK\r\n\r\n", b"\r\n\r\n", b"A" * 9000):
        peer.transport.sendto(rubbish, ("127.0.0.1", sip.port))
    peer.transport.sendto(options(peer.port), ("127.0.0.1", sip.port))
    assert "200 OK" in await peer.next()
    assert sip.counters["received"] == 6


def test_a_datagram_that_cannot_be_sent_costs_no_other_its_way_on_uvloop():
    async def scene() -> None:
        sip = SipTransport("127.0.0.1", None, LOOPBACK, lambda local, event: None)
        await sip.open(0)
        _, peer = await asyncio.get_running_loop().create_datagram_endpoint(Peer, ("127.0.0.1", 0))
        sip.perform(Local("127.0.0.1"), [Send(b"x", ("2001:db8::1", 5060)), Send(b"y", ("127.0.0.1", peer.port))])
        assert await peer.next() == "y"
        assert (sip.counters["defects"], sip.counters["sent"]) == (1, 1)
        sip.close()
        peer.transport.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(scene())


async def test_a_defect_above_stops_neither_timers_nor_the_next_request(make):
    events = []

    def broken(local, event):
        events.append((local, event))
        raise ZeroDivisionError

    sip = await make(on_event=broken)
    peer = await make.peer()
    peer.transport.sendto(invite(peer.port), ("127.0.0.1", sip.port))
    assert "100 Trying" in await peer.next()
    ((local, event),) = events
    sip.perform(local, sip.core(local).answer(event.dialog, SDP, asyncio.get_running_loop().time()))
    assert "200 OK" in await peer.next()
    assert "200 OK" in await peer.next()  # T1 later
    peer.transport.sendto(options(peer.port).replace(b"bK1", b"bK2"), ("127.0.0.1", sip.port))
    assert "OPTIONS" in await peer.next()
    assert sip.counters["defects"] == 1


async def test_a_defect_in_the_core_leaves_its_timer_armed(make, monkeypatch):
    sip = await make()
    peer = await make.peer()
    core = sip.core(Local("127.0.0.1"))
    expire, failures = core.expire, [ZeroDivisionError()]
    monkeypatch.setattr(core, "expire", lambda now: expire(now) if not failures else fail(failures.pop()))
    peer.transport.sendto(invite(peer.port), ("127.0.0.1", sip.port))
    assert "100 Trying" in await peer.next()
    ((local, event),) = sip.events
    sip.perform(local, core.answer(event.dialog, SDP, asyncio.get_running_loop().time()))
    assert "200 OK" in await peer.next()
    assert "200 OK" in await peer.next()  # the first expiry failed, the next one came
    assert sip.counters["defects"] == 1


def fail(error: Exception):
    raise error


@pytest.mark.parametrize("peer_host", ["127.0.0.1", "::1"])
async def test_a_socket_on_both_ip_versions_tells_each_peer_addresses_it_can_reach(make, peer_host):
    sip = await make(host="::")
    peer = await make.peer(peer_host)
    written = f"[{peer_host}]" if ":" in peer_host else peer_host
    peer.transport.sendto(options(peer.port, written), (peer_host, sip.port))
    answer = await peer.next()
    contact = next(line for line in answer.split("\r\n") if line.startswith("Contact"))
    assert f"{written}:{sip.port}" in contact
    assert f"received={peer_host}" in answer.replace("[", "").replace("]", "")
    assert "ffff" not in answer


async def answered(sip: SipTransport, peer: Peer) -> tuple[Local, str, str]:
    """Local user agent, dialog and our tag of a call that has its 200."""
    peer.transport.sendto(invite(peer.port), ("127.0.0.1", sip.port))
    assert "100 Trying" in await peer.next()
    ((local, event),) = sip.events
    sip.perform(local, sip.core(local).answer(event.dialog, SDP, asyncio.get_running_loop().time()))
    ok = await peer.next()
    return local, event.dialog, ok.split("\r\nTo: ")[1].split(";tag=")[1].split("\r\n")[0]


def ack(port: int, to_tag: str, branch: str = "z9hG4bKack") -> bytes:
    text = options(port).decode().replace("OPTIONS", "ACK").replace("z9hG4bK1", branch)
    return text.replace("To: <sip:x@127.0.0.1>", f"To: <sip:x@127.0.0.1>;tag={to_tag}").encode()


async def test_a_lost_bye_is_repeated_before_the_socket_closes(make):
    sip = await make()
    peer = await make.peer()
    local, dialog, tag = await answered(sip, peer)
    peer.transport.sendto(ack(peer.port, tag), ("127.0.0.1", sip.port))
    while not any(isinstance(event, Confirmed) for _, event in sip.events):  # noqa: ASYNC110
        await asyncio.sleep(0.005)
    sip.perform(local, sip.core(local).bye(dialog, asyncio.get_running_loop().time()))
    lingering = asyncio.create_task(sip.linger(3))
    first, again = await peer.next(), await peer.next()
    assert first.startswith("BYE")
    assert again == first
    assert not lingering.done()
    head = [line for line in again.split("\r\n") if line.startswith(("Via", "From", "To", "Call-ID", "CSeq"))]
    peer.transport.sendto("\r\n".join(["SIP/2.0 200 OK", *head, "", ""]).encode(), ("127.0.0.1", sip.port))
    await asyncio.wait_for(lingering, 1)


async def test_a_call_without_ack_gets_its_bye_at_the_end_of_the_linger(make):
    sip = await make()
    peer = await make.peer()
    local, dialog, _ = await answered(sip, peer)
    sip.perform(local, sip.core(local).bye(dialog, asyncio.get_running_loop().time()))
    assert peer.got.empty()
    await sip.linger(0.1)
    assert (await peer.next()).startswith("BYE")


async def test_the_socket_lingers_for_the_ack_of_a_refusal(make):
    sip = await make()
    peer = await make.peer()
    peer.transport.sendto(invite(peer.port), ("127.0.0.1", sip.port))
    assert "100 Trying" in await peer.next()
    ((local, event),) = sip.events
    sip.perform(local, sip.core(local).reject(event.dialog, 503, asyncio.get_running_loop().time()))
    lingering = asyncio.create_task(sip.linger(3))
    refusals = [await peer.next(), await peer.next()]  # T1 later
    assert all("503" in refusal.split("\r\n")[0] for refusal in refusals)
    assert not lingering.done()
    tag = refusals[0].split("\r\nTo: ")[1].split(";tag=")[1].split("\r\n")[0]
    peer.transport.sendto(ack(peer.port, tag, "z9hG4bK1"), ("127.0.0.1", sip.port))
    await asyncio.wait_for(lingering, 1)


async def test_nobody_lingers_when_all_is_said(make):
    sip = await make()
    await asyncio.wait_for(sip.linger(3), 0.5)
