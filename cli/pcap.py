"""SIP messages as a capture file in the classic pcap format (draft-ietf-opsawg-pcap), for tshark, Wireshark and sipp.

Every message becomes one UDP datagram in an IP packet without a link layer (LINKTYPE_RAW), whatever carried it:
a capture of TLS would show nothing. One larger than a datagram is cut, and its packet record says so.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from ipaddress import IPv4Address, IPv6Address, ip_address

MAGIC = 0xA1B2C3D4  # microseconds, in the byte order that we write: big-endian
LINKTYPE_RAW = 101
UDP = 17
MOST_BYTES = 65_000  # of a message: with its headers an IPv4 packet ends at 65,535
NOWHERE = "192.0.2.0"  # TEST-NET-1 (RFC 5737), for a host that is a name: a packet has none

Address = IPv4Address | IPv6Address


@dataclass(frozen=True, slots=True)
class Datagram:
    """One message; `source` and `destination` are `host:port` or `[host]:port`."""

    at: datetime
    source: str
    destination: str
    payload: bytes


def pcap(datagrams: Iterable[Datagram]) -> bytes:
    """The whole file."""
    parts = [struct.pack(">IHHiIII", MAGIC, 2, 4, 0, 0, 65_535, LINKTYPE_RAW)]
    for datagram in datagrams:
        cut = datagram.payload[:MOST_BYTES]
        packet = _packet(endpoint(datagram.source), endpoint(datagram.destination), cut)
        seconds, microseconds = divmod(round(datagram.at.timestamp() * 1_000_000), 1_000_000)
        original = len(packet) + len(datagram.payload) - len(cut)
        parts += [struct.pack(">IIII", seconds, microseconds, len(packet), original), packet]
    return b"".join(parts)


def endpoint(text: str) -> tuple[Address, int]:
    """Address and port of `host:port`; a host that is no address becomes `NOWHERE`, a missing port 5060."""
    host, colon, port = text.rpartition(":")
    if not colon or not re.fullmatch("[0-9]{1,5}", port) or text.endswith("]"):
        host, port = text, "5060"
    try:
        address = ip_address(host.strip("[]").partition("%")[0])
    except ValueError:
        address = ip_address(NOWHERE)
    return address, min(int(port), 65_535)


def _packet(source: tuple[Address, int], destination: tuple[Address, int], payload: bytes) -> bytes:
    (from_ip, from_port), (to_ip, to_port) = source, destination
    if from_ip.version != to_ip.version:  # IPv4-mapped (RFC 4291 §2.5.5.2): a packet has one family
        from_ip, to_ip = _as_ipv6(from_ip), _as_ipv6(to_ip)
    length = 8 + len(payload)
    pseudo = from_ip.packed + to_ip.packed + struct.pack(">IBBBB", length, 0, 0, 0, UDP)  # RFC 8200 §8.1; the same sum
    bare = struct.pack(">HHHH", from_port, to_port, length, 0)
    checksum = _checksum(pseudo + bare + payload) or 0xFFFF  # 0 says that there is none (RFC 768)
    datagram = struct.pack(">HHHH", from_port, to_port, length, checksum) + payload
    if from_ip.version == 6:
        return struct.pack(">IHBB", 6 << 28, length, UDP, 64) + from_ip.packed + to_ip.packed + datagram
    head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + length, 0, 0x4000, 64, UDP, 0) + from_ip.packed + to_ip.packed
    return head[:10] + struct.pack(">H", _checksum(head)) + head[12:] + datagram


def _as_ipv6(address: Address) -> IPv6Address:
    return address if isinstance(address, IPv6Address) else IPv6Address(f"::ffff:{address}")


def _checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071)."""
    padded = data + bytes(len(data) % 2)
    total: int = sum(struct.unpack(f">{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
