"""RTP ports: even, from the range, and not given away while stragglers of the last call come."""

import asyncio
import socket

import pytest

from services.sip_gateway import rtp_ports
from services.sip_gateway.rtp_ports import NoRtpPort, PortPool
from tests.unit.sip_gateway.media import Line, packet, udp


@pytest.fixture
def short_drain(monkeypatch):
    monkeypatch.setattr(rtp_ports, "DRAIN_S", 0.05)


def a_range(size: int) -> tuple[int, int]:
    """`size` neighbouring ports that are free now, from an odd one on."""
    for first in range(21_001, 60_000, 2 * size):
        held = []
        try:
            for port in range(first, first + size):
                held.append(udp_on(port))
        except OSError:
            continue
        finally:
            for sock in held:
                sock.close()
        return first, first + size - 1
    raise AssertionError("no free range")


def udp_on(port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        sock.bind(("127.0.0.1", port))
    except OSError:
        sock.close()
        raise
    return sock


def close(*sockets) -> None:
    for sock in sockets:
        sock.close()


def test_ports_are_even_and_within_the_range():
    first, last = a_range(9)
    pool = PortPool((first, last))
    sockets = [pool.acquire("127.0.0.1") for _ in range(4)]
    assert [sock.getsockname()[1] for sock in sockets] == [first + 1, first + 3, first + 5, first + 7]
    assert not any(sock.getblocking() for sock in sockets)
    close(*sockets)


def test_a_range_that_is_used_up_says_so():
    pool = PortPool(a_range(6))  # the last is even, and its neighbour not ours
    sockets = [pool.acquire("127.0.0.1"), pool.acquire("127.0.0.1")]
    with pytest.raises(NoRtpPort, match="no free RTP port between"):
        pool.acquire("127.0.0.1")
    close(*sockets)


def test_a_port_that_another_program_has_is_passed_over():
    first, last = a_range(5)
    other = udp_on(first + 1)
    pool = PortPool((first, last))
    ours = pool.acquire("127.0.0.1")
    assert ours.getsockname()[1] == first + 3
    close(other, ours)


def test_rtcp_has_the_port_after_and_both_close_together():
    sock = PortPool(None).acquire("127.0.0.1")
    port = sock.getsockname()[1]
    assert port % 2 == 0
    assert sock.rtcp.getsockname()[1] == port + 1
    sock.close()
    close(udp_on(port), udp_on(port + 1))


def test_a_pair_whose_odd_port_another_program_has_is_passed_over():
    first, last = a_range(5)
    other = udp_on(first + 2)
    sock = PortPool((first, last)).acquire("127.0.0.1")
    assert (sock.getsockname()[1], sock.rtcp.getsockname()[1]) == (first + 3, first + 4)
    close(other, sock)
    close(udp_on(first + 1))


def test_without_a_range_any_free_port_is_given():
    sock = PortPool(None).acquire("127.0.0.1")
    assert sock.getsockname()[1] > 1023
    close(sock)


async def test_a_port_is_drained_before_it_is_given_again(short_drain):
    pool = PortPool(a_range(3))
    sock = pool.acquire("127.0.0.1")
    port = sock.getsockname()[1]
    pool.release(sock)
    assert pool.draining == 1
    with pytest.raises(NoRtpPort):
        pool.acquire("127.0.0.1")
    await asyncio.sleep(0.06)
    assert pool.draining == 0
    again = pool.acquire("127.0.0.1")
    assert again.getsockname()[1] == port
    close(again)


async def test_late_packets_of_an_ended_call_never_reach_the_next_call_on_that_port(short_drain):
    pool = PortPool(a_range(3))
    old = pool.acquire("127.0.0.1")
    address = old.getsockname()
    straggler = udp()
    pool.release(old)
    for number in range(5):
        straggler.sendto(packet(number).serialize(), address)
    await asyncio.sleep(0.06)
    line = Line()
    line.rtp._sock.close()
    line.rtp._sock = pool.acquire("127.0.0.1")
    assert line.rtp._sock.getsockname() == address
    line.rtp.read(line.now)
    assert line.frames == []
    assert line.rtp.statistics().rtp_received == 0
    close(straggler, line.rtp._sock)
    line.close()
