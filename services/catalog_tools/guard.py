"""Where declared tools may connect to: the public internet, and the private addresses that the operator lists.

A document is written by whoever runs an agent; without this it could make the service read what only its own network
may read (server-side request forgery). Names are judged by the addresses that they resolve to, at each connection.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable
from urllib.parse import urlsplit

from aiohttp import ThreadedResolver
from aiohttp.abc import AbstractResolver, ResolveResult

IpNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network
IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")  # RFC 6052: a gateway leads on to the IPv4 address in it
_COMPATIBLE = ipaddress.IPv6Network("::/96")  # RFC 4291 §2.5.5.1, of old


class ForbiddenHostError(OSError):
    """The address is private, and not listed."""

    def __init__(self, host: str) -> None:
        super().__init__(f"{host} is in a private network; list it in TOOL_PRIVATE_HOSTS if tools may use it")


class Guard:
    """`private_hosts`: names and networks (`crm.local`, `10.1.0.0/16`, `127.0.0.1`) that may be used all the same."""

    def __init__(self, private_hosts: Iterable[str]) -> None:
        self._names: set[str] = set()
        self._networks: list[IpNetwork] = []
        for entry in private_hosts:
            try:
                self._networks.append(ipaddress.ip_network(entry, strict=False))
            except ValueError:
                self._names.add(entry.lower())

    def allows_name(self, host: str) -> bool:
        """Whether the operator lists this name, whatever it resolves to."""
        return host.lower().rstrip(".") in self._names

    def allows_address(self, address: str) -> bool:
        """Whether an address is public or listed."""
        ip = _reached(ipaddress.ip_address(address.partition("%")[0]))
        is_site_local = isinstance(ip, ipaddress.IPv6Address) and ip.is_site_local  # RFC 3879: still routed by some
        if ip.is_global and not ip.is_multicast and not is_site_local:
            return True
        return any(ip.version == network.version and ip in network for network in self._networks)

    def check_literal(self, url: str) -> None:
        """An address written in the URL itself, which no resolver sees.

        Raises:
            ForbiddenHostError: it is private.
        """
        host = urlsplit(url).hostname or ""
        try:
            ipaddress.ip_address(host)
        except ValueError:
            return
        if not self.allows_address(host):
            raise ForbiddenHostError(host)

    async def check(self, url: str) -> None:
        """For clients that resolve by themselves.

        Raises:
            ForbiddenHostError: it leads to a private address.
            OSError: the name cannot be resolved.
        """
        self.check_literal(url)
        await GuardedResolver(self).resolve(urlsplit(url).hostname or "", 0, socket.AF_UNSPEC)


def _reached(ip: IpAddress) -> IpAddress:
    """The IPv4 address that an IPv6 address stands for, else the address itself."""
    if isinstance(ip, ipaddress.IPv4Address):
        return ip
    if ip in _NAT64 or (ip in _COMPATIBLE and int(ip) > 1):
        return ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
    return ip.ipv4_mapped or ip.sixtofour or ip


class GuardedResolver(AbstractResolver):
    """Resolves names to the addresses that the guard allows."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self._resolver = ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """See `AbstractResolver`."""
        found = await self._resolver.resolve(host, port, family)
        if self._guard.allows_name(host):
            return found
        allowed = [result for result in found if self._guard.allows_address(result["host"])]
        if not allowed:
            raise ForbiddenHostError(host)
        return allowed

    async def close(self) -> None:
        """Nothing is kept."""
        await self._resolver.close()
