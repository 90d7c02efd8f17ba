"""Capture files, parsed back by hand and by Wireshark's own reader where it is installed."""

import shutil
import struct
import subprocess
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from cli.pcap import NOWHERE, Datagram, endpoint, pcap

AT = datetime(2026, 3, 1, 9, 0, 0, 123456, tzinfo=UTC)
OPTIONS = (
    b"OPTIONS sip:a@192.0.2.7 SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.0.1:5060;branch=z9hG4bK1\r\nMax-Forwards: 70\r\n"
    b"From: <sip:b@127.0.0.1>;tag=1\r\nTo: <sip:a@192.0.2.7>\r\nCall-ID: 1@x\r\nCSeq: 7 OPTIONS\r\n"
    b"Content-Length: 0\r\n\r\n"
)


def packets(data: bytes) -> list[tuple[float, int, bytes]]:
    """(time, original length, packet) of each record."""
    assert struct.unpack(">IHHiIII", data[:24]) == (0xA1B2C3D4, 2, 4, 0, 0, 65_535, 101)
    found, rest = [], data[24:]
    while rest:
        seconds, microseconds, kept, original = struct.unpack(">IIII", rest[:16])
        found.append((seconds + microseconds / 1e6, original, rest[16 : 16 + kept]))
        assert len(found[-1][2]) == kept
        rest = rest[16 + kept :]
    return found


def ones_sum(data: bytes) -> int:
    """All ones when the checksum within is right (RFC 1071)."""
    total = sum(struct.unpack(f">{(len(data) + 1) // 2}H", data + bytes(len(data) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def test_an_ipv4_packet_has_the_messages_addresses_time_and_right_checksums() -> None:
    ((at, original, packet),) = packets(pcap([Datagram(AT, "127.0.0.1:5060", "192.0.2.7:5070", OPTIONS)]))
    assert at == pytest.approx(AT.timestamp(), abs=1e-6)
    assert original == len(packet) == 28 + len(OPTIONS)
    assert packet[0] == 0x45
    assert struct.unpack(">H", packet[2:4]) == (len(packet),)
    assert packet[9] == 17
    assert [str(ip_address(packet[a:b])) for a, b in ((12, 16), (16, 20))] == ["127.0.0.1", "192.0.2.7"]
    assert struct.unpack(">HHH", packet[20:26]) == (5060, 5070, 8 + len(OPTIONS))
    assert packet[28:] == OPTIONS
    assert ones_sum(packet[:20]) == 0xFFFF
    assert ones_sum(packet[12:20] + struct.pack(">HH", 17, 8 + len(OPTIONS)) + packet[20:]) == 0xFFFF


def test_an_ipv6_packet_too_and_a_mixed_pair_becomes_one_family() -> None:
    ours = packets(
        pcap([Datagram(AT, "[::1]:5060", "[2001:db8::7]:5062", b"x"), Datagram(AT, "[::1]:1", "10.0.0.1:2", b"y")])
    )
    (_, _, packet), (_, _, mixed) = ours
    assert packet[0] >> 4 == mixed[0] >> 4 == 6
    assert struct.unpack(">HBB", packet[4:8]) == (9, 17, 64)
    assert [str(ip_address(packet[a:b])) for a, b in ((8, 24), (24, 40))] == ["::1", "2001:db8::7"]
    assert str(ip_address(mixed[24:40]).ipv4_mapped) == "10.0.0.1"  # type: ignore[union-attr]
    for one in (packet, mixed):
        assert ones_sum(one[8:40] + struct.pack(">IHH", len(one) - 40, 0, 17) + one[40:]) == 0xFFFF


def test_a_message_larger_than_a_datagram_is_cut_and_its_length_told() -> None:
    ((_, original, packet),) = packets(pcap([Datagram(AT, "10.0.0.1:1", "10.0.0.2:2", bytes(70_000))]))
    assert (len(packet), original) == (65_028, 70_028)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10.0.0.1:5070", ("10.0.0.1", 5070)),
        ("10.0.0.1", ("10.0.0.1", 5060)),
        ("[::1]:5061", ("::1", 5061)),
        ("[fe80::1%eth0]", ("fe80::1", 5060)),
        ("sip.example.net:5070", (NOWHERE, 5070)),
        ("", (NOWHERE, 5060)),
    ],
)
def test_endpoints_are_read_whatever_they_are(text: str, expected: tuple[str, int]) -> None:
    address, port = endpoint(text)
    assert (str(address), port) == expected


@given(st.lists(st.tuples(st.text(), st.text(), st.binary(max_size=300)), max_size=5))
def test_nothing_in_a_trace_breaks_the_file(rows: list[tuple[str, str, bytes]]) -> None:
    found = packets(pcap(Datagram(AT, source, to, payload) for source, to, payload in rows))
    assert [packet.endswith(payload) for (_, _, packet), (_, _, payload) in zip(found, rows, strict=True)] == [
        True
    ] * len(rows)


@pytest.mark.skipif(shutil.which("tshark") is None, reason="tshark is not installed")
def test_wireshark_reads_it_as_sip_without_complaint(tmp_path: Path) -> None:
    path = tmp_path / "call.pcap"
    there = Datagram(AT, "127.0.0.1:5060", "192.0.2.7:5070", OPTIONS)
    back = Datagram(AT, "[::1]:5060", "[2001:db8::7]:5060", OPTIONS)
    path.write_bytes(pcap([there, back]))
    checks = ["-o", "udp.check_checksum:TRUE", "-o", "ip.check_checksum:TRUE"]
    fields = ["-T", "fields", "-e", "sip.Method", "-e", "sip.CSeq.seq", "-e", "_ws.expert.message"]
    said = subprocess.run(["tshark", "-r", str(path), *checks, *fields], capture_output=True, text=True, check=True)
    assert said.stdout == "OPTIONS\t7\t\nOPTIONS\t7\t\n"
