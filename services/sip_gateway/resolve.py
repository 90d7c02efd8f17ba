"""Where a provider's server is: SRV, then A and AAAA records (RFC 3263 §4.2), without NAPTR: the transport is known.

    numeric address                     -> itself
    name with a port                    -> its addresses, at that port
    name without a port                 -> SRV `_sip._udp`, `_sip._tcp` or `_sips._tcp`; each target's addresses
    name without a port and without SRV -> its addresses at 5060, for TLS 5061

Names without a dot (`localhost`, a container) and names that DNS does not know go to the system's resolver, which reads
the hosts file.
"""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

import dns.asyncresolver
import dns.exception
import dns.rdatatype
import dns.resolver

from libs.sip.uri import DEFAULT_PORTS, Transport

SystemLookup = Callable[[str, int], Awaitable[list[tuple[Any, ...]]]]
SRV_NAMES: dict[Transport, str] = {"udp": "_sip._udp", "tcp": "_sip._tcp", "tls": "_sips._tcp"}
TIMEOUT_S = 5.0


class ResolveError(OSError):
    """A server name leads nowhere; the text says which question had which outcome."""


@dataclass(frozen=True, slots=True)
class SrvRecord:
    """One SRV record (RFC 2782); `target` without the final dot."""

    priority: int
    weight: int
    port: int
    target: str


@dataclass(frozen=True, slots=True)
class Destination:
    """One server of a provider: a numeric address."""

    host: str
    port: int
    transport: Transport

    @property
    def address(self) -> tuple[str, int]:
        """As the SIP core names destinations."""
        return self.host, self.port


class Destinations:
    """The servers of one name in the order in which they are to be tried.

    A trunk registers and calls at `current`. When a request fails with 503, without an answer (408 from its own
    transaction) or because no connection came about (`RegistrationFailed` with status None, `Rejected` with 503), it
    takes `next()` and tries the same request there as a new transaction (RFC 3263 §4.3). None means that all have
    failed: resolve again after a back-off. Any other answer, a refusal included, is the provider's word: no failover.

        destinations = await resolver.resolve("sip.example.net", "tls")
        while (destination := destinations.current) is not None:
            if await works(destination):
                break
            destinations.next()
    """

    def __init__(self, found: Iterable[Destination]) -> None:
        self.all = tuple(found)
        self._position = 0

    @property
    def current(self) -> Destination | None:
        """The one to use now; None when all have failed."""
        return self.all[self._position] if self._position < len(self.all) else None

    def next(self) -> Destination | None:
        """Give up the current one."""
        self._position = min(self._position + 1, len(self.all))
        return self.current


def order(records: Iterable[SrvRecord], random_number: Callable[[], float]) -> list[SrvRecord]:
    """The lowest priority first; within one priority drawn by weight, those of weight 0 rarely first (RFC 2782).

    `random_number` gives numbers from 0 to below 1.
    """
    by_priority: dict[int, list[SrvRecord]] = {}
    for record in records:
        by_priority.setdefault(record.priority, []).append(record)
    ordered = []
    for _, group in sorted(by_priority.items()):
        left = sorted(group, key=lambda record: record.weight)
        while left:
            drawn = int(random_number() * (sum(record.weight for record in left) + 1))
            for record in left:
                drawn -= record.weight
                if drawn <= 0 or record is left[-1]:
                    break
            left.remove(record)
            ordered.append(record)
    return ordered


def split_server(server: str) -> tuple[str, int | None]:
    """`host[:port]` or `[v6][:port]`, or a bare IPv6 address. Raises ResolveError for a port that is none."""
    if server.startswith("["):
        host, _, rest = server[1:].partition("]")
        text = rest.removeprefix(":")
    elif server.count(":") > 1:
        return server, None
    else:
        host, _, text = server.partition(":")
    if not text:
        return host, None
    if not text.isdecimal() or not 0 < int(text) < 65536:
        raise ResolveError(f"{text!r} in {server!r} is not a port")
    return host, int(text)


class Resolver:
    """Asks DNS, then the system. `family` limits the addresses; `nameserver` and `system_lookup` are for tests."""

    def __init__(
        self, family: int = socket.AF_UNSPEC, *, nameserver: tuple[str, int] | None = None,
        timeout_s: float = TIMEOUT_S, random_number: Callable[[], float] = random.random,
        system_lookup: SystemLookup | None = None,
    ) -> None:  # fmt: skip
        self._family = family
        self._random_number = random_number
        self._system_lookup = system_lookup or _system_lookup
        self._dns: dns.asyncresolver.Resolver | None
        try:
            self._dns = dns.asyncresolver.Resolver(configure=nameserver is None)
        except dns.resolver.NoResolverConfiguration:
            self._dns = None
            return
        self._dns.lifetime = timeout_s
        if nameserver is not None:
            self._dns.nameservers = [nameserver[0]]
            self._dns.port = nameserver[1]

    async def resolve(self, server: str, transport: Transport, port: int | None = None) -> Destinations:
        """Where to send requests for `server` (`host`, `host:port`); an explicit `port` counts like one in the name.

        Raises ResolveError.
        """
        host, named_port = split_server(server)
        port = port or named_port
        if _is_address(host):
            return Destinations([Destination(str(ip_address(host)), port or DEFAULT_PORTS[transport], transport)])
        targets = [SrvRecord(0, 0, port or DEFAULT_PORTS[transport], host)]
        problem = ""
        if port is None and "." in host.rstrip("."):
            records, problem = await self._srv(f"{SRV_NAMES[transport]}.{host}")
            targets = order(records, self._random_number) or targets
        found: list[Destination] = []
        problems = [problem] if problem else []
        for target in targets:
            addresses, problem = await self._addresses(target.target)
            found += [Destination(address, target.port, transport) for address in addresses]
            problems += [problem] if problem else []
        if not found:
            raise ResolveError(f"{server} leads nowhere: {'; '.join(problems)}")
        return Destinations(dict.fromkeys(found))

    async def _srv(self, name: str) -> tuple[list[SrvRecord], str]:
        """The records, and why there are none. Raises ResolveError when the domain says that it has no such service."""
        answers, problem = await self._ask(name, "SRV")
        records = [SrvRecord(item.priority, item.weight, item.port, str(item.target).rstrip(".")) for item in answers]
        if len(records) == 1 and not records[0].target:
            raise ResolveError(f"{name}: the domain says that it has no such service (RFC 2782)")
        return records, problem

    async def _addresses(self, host: str) -> tuple[list[str], str]:
        """IPv4 before IPv6, and why there are none."""
        if _is_address(host):
            return [host], ""
        kinds = {socket.AF_INET: ["A"], socket.AF_INET6: ["AAAA"]}.get(
            socket.AddressFamily(self._family), ["A", "AAAA"]
        )
        problem = ""
        if "." in host.rstrip("."):
            answers = await asyncio.gather(*(self._ask(host, kind) for kind in kinds))
            found = [item.address for items, _ in answers for item in items]
            if found:
                return found, ""
            problem = "; ".join(problem for _, problem in answers)
        return await self._from_system(host, problem)

    async def _from_system(self, host: str, problem: str) -> tuple[list[str], str]:
        try:
            entries = await self._system_lookup(host, self._family)
        except OSError as error:
            return [], "; ".join(part for part in (problem, f"{host}: {error.strerror or error}") if part)
        return list(
            dict.fromkeys(str(entry[4][0]) for entry in sorted(entries, key=lambda e: e[0] != socket.AF_INET))
        ), ""

    async def _ask(self, name: str, kind: str) -> tuple[Sequence[Any], str]:
        if self._dns is None:
            return [], f"{kind} {name}: this system names no DNS server"
        try:
            return list(await self._dns.resolve(name, kind, search=False)), ""
        except dns.resolver.NXDOMAIN:
            return [], f"{kind} {name}: the name does not exist"
        except dns.resolver.NoAnswer:
            return [], f"{kind} {name}: no such record"
        except dns.exception.Timeout:
            return [], f"{kind} {name}: no answer from DNS in {self._dns.lifetime:g} s"
        except dns.exception.DNSException as error:  # SERVFAIL of all servers, a name that is none
            return [], f"{kind} {name}: {str(error) or type(error).__name__}"


async def _system_lookup(host: str, family: int) -> list[tuple[Any, ...]]:
    return list(await asyncio.get_running_loop().getaddrinfo(host, None, family=family, type=socket.SOCK_DGRAM))


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
