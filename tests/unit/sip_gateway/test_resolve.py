"""Where a provider's server is: the order of SRV records by itself, the questions against a DNS server of our own."""

import asyncio
import random
import socket

import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest

from services.sip_gateway.resolve import (
    Destination,
    Destinations,
    ResolveError,
    Resolver,
    SrvRecord,
    order,
    split_server,
)


class DnsServer(asyncio.DatagramProtocol):
    """Answers from `records`, {(name, kind): [text]}; an empty list is a name without such records. None is silence."""

    def __init__(self, records) -> None:
        self.records = records
        self.asked: list[tuple[str, str]] = []

    def connection_made(self, transport) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr) -> None:
        query = dns.message.from_wire(data)
        (question,) = query.question
        name, kind = str(question.name).rstrip("."), dns.rdatatype.to_text(question.rdtype)
        self.asked.append((name, kind))
        found = self.records.get((name, kind), [])
        if found is None:
            return
        response = dns.message.make_response(query)
        response.flags |= dns.flags.RA
        if isinstance(found, str):
            response.set_rcode(dns.rcode.from_text(found))
        elif found:
            response.answer.append(dns.rrset.from_text_list(question.name, 60, "IN", kind, found))
        elif not any(known == name for known, _ in self.records):
            response.set_rcode(dns.rcode.NXDOMAIN)
        self.transport.sendto(response.to_wire(), addr)


async def hosts_file(host: str, family: int):
    if host != "localhost":
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    return await asyncio.get_running_loop().getaddrinfo(host, None, family=family, type=socket.SOCK_DGRAM)


@pytest.fixture
async def zone():
    opened = []

    async def serve(records, **options):
        _, server = await asyncio.get_running_loop().create_datagram_endpoint(
            lambda: DnsServer(records), ("127.0.0.1", 0)
        )
        opened.append(server)
        port = server.transport.get_extra_info("sockname")[1]
        options = {"timeout_s": 2.0, "random_number": lambda: 0.5, "system_lookup": hosts_file} | options
        return Resolver(nameserver=("127.0.0.1", port), **options), server

    yield serve
    for server in opened:
        server.transport.close()


# -- order -----------------------------------------------------------------------------------------------------


def test_the_lowest_priority_comes_first_whatever_the_weights():
    records = [SrvRecord(20, 100, 5060, "c"), SrvRecord(10, 0, 5060, "a"), SrvRecord(20, 0, 5060, "d")]
    assert [record.target for record in order(records, lambda: 0.99)] == ["a", "c", "d"]


def test_within_a_priority_servers_come_first_as_often_as_their_weight_says():
    records = [SrvRecord(10, 75, 5060, "often"), SrvRecord(10, 25, 5060, "seldom"), SrvRecord(10, 0, 5060, "hardly")]
    numbers = random.Random(1)
    firsts = [order(records, numbers.random)[0].target for _ in range(4000)]
    assert 0.70 < firsts.count("often") / 4000 < 0.80
    assert 0 < firsts.count("hardly") / 4000 < 0.03


def test_servers_of_equal_weight_zero_all_stay_in_the_list():
    records = [SrvRecord(10, 0, 5060, name) for name in "abc"]
    assert sorted(record.target for record in order(records, lambda: 0.0)) == ["a", "b", "c"]
    assert order([], lambda: 0.0) == []


@pytest.mark.parametrize(
    ("server", "expected"),
    [
        ("sip.example", ("sip.example", None)), ("sip.example:5070", ("sip.example", 5070)),
        ("[::1]:5061", ("::1", 5061)), ("[::1]", ("::1", None)), ("::1", ("::1", None)),
        ("192.0.2.1:5062", ("192.0.2.1", 5062)),
    ],
)  # fmt: skip
def test_a_server_is_a_host_with_or_without_a_port(server, expected):
    assert split_server(server) == expected


@pytest.mark.parametrize("server", ["a.example:0", "a.example:70000", "a.example:x"])
def test_a_port_that_is_none_is_said(server):
    with pytest.raises(ResolveError, match="not a port"):
        split_server(server)


def test_destinations_are_tried_one_after_the_other_and_then_there_are_none():
    first, second = Destination("192.0.2.1", 5060, "udp"), Destination("192.0.2.2", 5060, "udp")
    destinations = Destinations([first, second])
    assert destinations.current == first
    assert destinations.next() == second
    assert destinations.next() is None
    assert destinations.current is destinations.next() is None
    assert first.address == ("192.0.2.1", 5060)


# -- without DNS -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("server", "transport", "expected"),
    [
        ("192.0.2.1", "udp", ("192.0.2.1", 5060)), ("192.0.2.1", "tls", ("192.0.2.1", 5061)),
        ("[2001:DB8::1]:5070", "tcp", ("2001:db8::1", 5070)), ("2001:db8::1", "tcp", ("2001:db8::1", 5060)),
    ],
)  # fmt: skip
async def test_an_address_leads_to_itself(zone, server, transport, expected):
    resolver, dns_server = await zone({})
    assert [found.address for found in (await resolver.resolve(server, transport)).all] == [expected]
    assert dns_server.asked == []


async def test_a_name_of_the_hosts_file_is_found_without_dns(zone):
    resolver, dns_server = await zone({}, family=socket.AF_INET)
    assert (await resolver.resolve("localhost", "udp")).current == Destination("127.0.0.1", 5060, "udp")
    assert (await resolver.resolve("localhost:5070", "tcp")).current == Destination("127.0.0.1", 5070, "tcp")
    assert dns_server.asked == []


# -- with DNS --------------------------------------------------------------------------------------------------


async def test_srv_records_and_their_addresses_give_the_servers_in_order(zone):
    resolver, _ = await zone({
        ("_sips._tcp.sip.test", "SRV"): ["20 0 5061 b.sip.test.", "10 0 5071 a.sip.test."],
        ("a.sip.test", "A"): ["192.0.2.1"], ("a.sip.test", "AAAA"): ["2001:db8::1"],
        ("b.sip.test", "A"): ["192.0.2.2"],
    })  # fmt: skip
    found = (await resolver.resolve("sip.test", "tls")).all
    assert [server.address for server in found] == [("192.0.2.1", 5071), ("2001:db8::1", 5071), ("192.0.2.2", 5061)]
    assert {server.transport for server in found} == {"tls"}


@pytest.mark.parametrize(("transport", "name"), [("udp", "_sip._udp"), ("tcp", "_sip._tcp"), ("tls", "_sips._tcp")])
async def test_each_transport_has_its_srv_name(zone, transport, name):
    resolver, server = await zone({("sip.test", "A"): ["192.0.2.1"]})
    await resolver.resolve("sip.test", transport)
    assert server.asked[0] == (f"{name}.sip.test", "SRV")


async def test_a_name_without_srv_leads_to_its_addresses(zone):
    resolver, _ = await zone({("sip.test", "A"): ["192.0.2.1", "192.0.2.2"]})
    found = (await resolver.resolve("sip.test", "tls")).all
    assert sorted(server.address for server in found) == [("192.0.2.1", 5061), ("192.0.2.2", 5061)]


async def test_a_port_in_the_name_or_beside_it_leaves_srv_out(zone):
    resolver, server = await zone({("sip.test", "A"): ["192.0.2.1"], ("_sip._udp.sip.test", "SRV"): []})
    assert (await resolver.resolve("sip.test:5080", "udp")).current.port == 5080
    assert (await resolver.resolve("sip.test", "udp", 5090)).current.port == 5090
    assert not [kind for _, kind in server.asked if kind == "SRV"]


async def test_only_addresses_that_we_can_send_to_are_asked_for(zone):
    records = {("sip.test", "A"): ["192.0.2.1"], ("sip.test", "AAAA"): ["2001:db8::1"]}
    resolver, server = await zone(records, family=socket.AF_INET6)
    assert [found.host for found in (await resolver.resolve("sip.test:5060", "udp")).all] == ["2001:db8::1"]
    assert ("sip.test", "A") not in server.asked


async def test_a_target_that_leads_nowhere_costs_no_other(zone):
    resolver, _ = await zone({
        ("_sip._udp.sip.test", "SRV"): ["10 0 5060 gone.invalid.", "20 0 5060 b.sip.test."],
        ("b.sip.test", "A"): ["192.0.2.2"],
    })  # fmt: skip
    assert [server.host for server in (await resolver.resolve("sip.test", "udp")).all] == ["192.0.2.2"]


async def test_a_domain_may_say_that_it_has_no_such_service(zone):
    resolver, _ = await zone({("_sips._tcp.sip.test", "SRV"): ["0 0 0 ."], ("sip.test", "A"): ["192.0.2.1"]})
    with pytest.raises(ResolveError, match="no such service"):
        await resolver.resolve("sip.test", "tls")


async def test_a_name_that_does_not_exist_is_said_with_both_questions(zone):
    resolver, _ = await zone({})
    with pytest.raises(ResolveError, match=r"SRV _sip\._udp\.nobody\.invalid: the name does not exist; A nobody"):
        await resolver.resolve("nobody.invalid", "udp")


async def test_a_silent_dns_server_is_said(zone):
    silence = {(name, kind): None for name in ("x.invalid", "_sip._udp.x.invalid") for kind in ("SRV", "A", "AAAA")}
    resolver, _ = await zone(silence, timeout_s=0.05)
    with pytest.raises(ResolveError, match=r"SRV _sip\._udp\.x\.invalid: no answer from DNS in 0\.05 s"):
        await resolver.resolve("x.invalid", "udp")


async def test_a_dns_server_that_fails_is_said(zone):
    failing = {
        (name, kind): "SERVFAIL" for name in ("x.invalid", "_sip._udp.x.invalid") for kind in ("SRV", "A", "AAAA")
    }
    resolver, _ = await zone(failing, timeout_s=0.5)
    with pytest.raises(ResolveError, match=r"SRV _sip\._udp\.x\.invalid"):
        await resolver.resolve("x.invalid", "udp")
