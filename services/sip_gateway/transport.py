"""The UDP shell around the SIP core: datagram in, feed the core, send what it says, arm its one timer.

Peers must be able to reach the address in Contact, and it depends on where they are: one user agent per
local address, chosen by the route towards the source. Sources outside the allowed networks get no answer
at all: nobody out there learns that something listens.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache, partial
from ipaddress import ip_address
from typing import Literal

from libs.runtime.log import get_logger
from libs.sip.digest import Credentials
from libs.sip.events import Action, Send
from libs.sip.user_agent import UaConfig, UserAgent
from services.sip_gateway.settings import Network

log = get_logger()

LINGER_POLL_S = 0.02
Transport = Literal["udp", "tcp", "tls"]
WILDCARDS = ("0.0.0.0", "::")
V4_MAPPED = "::ffff:"  # RFC 4291 §2.5.5.2: how a socket on `::` shows an IPv4 peer


def _plain(host: str) -> str:
    """An IPv4-mapped IPv6 address as the IPv4 address that peers know; any other as it is."""
    return host[len(V4_MAPPED) :] if host.startswith(V4_MAPPED) and "." in host else host


@dataclass(frozen=True, slots=True)
class Local:
    """One of our user agents: the address that its peers reach, and the transport that it speaks."""

    host: str
    transport: Transport = "udp"


@lru_cache(maxsize=4096)
def local_address_towards(host: str) -> str:
    """Our address on the route to `host`. Connecting a UDP socket sends nothing."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((host, 9))
        except OSError:
            return "::1" if family == socket.AF_INET6 else "127.0.0.1"
        return str(probe.getsockname()[0])


class _Agent:
    """One user agent with its timer."""

    def __init__(self, core: UserAgent) -> None:
        self.core = core
        self.timer: asyncio.TimerHandle | None = None


class SipTransport(asyncio.DatagramProtocol):
    """`on_event` is called with the local user agent and each action that is not a datagram to send."""

    def __init__(
        self, host: str, public_host: str | None, allowed: Iterable[Network], on_event: Callable[[Local, Action], None]
    ) -> None:
        self._host = _plain(host)
        self._public_host = public_host
        self._on_event = on_event
        self._agents: dict[Local, _Agent] = {}
        self._transport: asyncio.DatagramTransport | None = None
        self._is_ipv6 = False
        self._loop = asyncio.get_running_loop()
        networks = tuple(allowed)

        @lru_cache(maxsize=4096)
        def is_allowed(source: str) -> bool:
            address = ip_address(source)
            return any(address in network for network in networks if network.version == address.version)

        self._is_allowed = is_allowed
        self._also_allowed: set[str] = set()
        self.credentials: Credentials | None = None  # for providers that ask; set before the first datagram
        self.port = 0
        self.counters: Counter[str] = Counter()

    async def open(self, port: int) -> None:
        """Listen.

        Raises:
            OSError: the address is taken or not ours.
        """
        await self._loop.create_datagram_endpoint(lambda: self, local_addr=(self._host, port))

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
        self._transport = transport
        own_host, self.port = transport.get_extra_info("sockname")[:2]
        self._is_ipv6 = ":" in own_host

    async def linger(self, limit_s: float) -> None:
        """Wait until what was said last (BYE, a refusal) is answered, repeating it meanwhile; at most `limit_s`.

        A call whose 2xx is still without ACK may get no BYE before it (RFC 3261 §15). At the end it gets one anyway:
        nobody will be here when the ACK comes.
        """
        try:
            async with asyncio.timeout(limit_s):
                while not all(agent.core.is_settled for agent in self._agents.values()):  # noqa: ASYNC110  no event
                    await asyncio.sleep(LINGER_POLL_S)
        except TimeoutError:
            log.info("closing although not everybody has answered", after_s=limit_s)
        for local, agent in list(self._agents.items()):
            self._feed(local, agent, agent.core.stop_waiting_for_acks)

    def close(self) -> None:
        """Stop listening; timers are cancelled."""
        for agent in self._agents.values():
            if agent.timer is not None:
                agent.timer.cancel()
        if self._transport is not None:
            self._transport.close()

    def answers(self, host: str) -> bool:
        """Whether this source gets an answer at all."""
        return self._is_allowed(host) or host in self._also_allowed

    def allow(self, host: str) -> None:
        """Answer this address, too: the provider that we register with."""
        self._also_allowed.add(host)

    def local(self, source_host: str, transport: Transport = "udp") -> Local:
        """The user agent that this source reaches us by; its host stands in Contact and SDP."""
        if self._public_host is not None:
            return Local(self._public_host, transport)
        return Local(local_address_towards(source_host) if self._host in WILDCARDS else self._host, transport)

    def core(self, local: Local) -> UserAgent:
        """The user agent of a local address and transport."""
        return self._agent(local).core

    def _agent(self, local: Local) -> _Agent:
        agent = self._agents.get(local)
        if agent is None:
            config = UaConfig(local.host, self.port)
            core = UserAgent(config, lambda: secrets.token_hex(8), credentials=self.credentials)
            agent = self._agents[local] = _Agent(core)
        return agent

    # -- in ------------------------------------------------------------------------------------------------

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        source = (_plain(addr[0]), addr[1])
        self.counters["received"] += 1
        if not self.answers(source[0]):
            self.counters["source_not_allowed"] += 1
            return
        local = self.local(source[0])
        agent = self._agent(local)
        self._feed(local, agent, partial(agent.core.receive, data, source))

    def _feed(self, local: Local, agent: _Agent, step: Callable[[float], list[Action]]) -> None:
        """One step of the core. A defect in it costs what the step was about; socket and timers go on."""
        actions: list[Action] = []
        try:
            actions = step(self._loop.time())
        except Exception:  # noqa: BLE001  top of a datagram or timer: uvloop closes a socket whose protocol raises
            self._defect("a datagram or timer")
        self._act(local, agent, actions)

    def _defect(self, where: str) -> None:
        self.counters["defects"] += 1
        log.exception("a defect; other calls go on", where=where)

    def error_received(self, exc: Exception) -> None:
        self.counters["socket_error"] += 1

    # -- out -----------------------------------------------------------------------------------------------

    def perform(self, local: Local, actions: list[Action]) -> None:
        """Send and report what a command to the core returned."""
        self._act(local, self._agent(local), actions)

    def _act(self, local: Local, agent: _Agent, actions: list[Action]) -> None:
        try:
            for action in actions:
                try:
                    self._do(local, action)
                except Exception:  # noqa: BLE001  uvloop's sendto raises ValueError; one action costs no other
                    self._defect(type(action).__name__)
        finally:
            self._arm(local, agent)

    def _do(self, local: Local, action: Action) -> None:
        if not isinstance(action, Send):
            self._on_event(local, action)
        elif self._transport is not None and not self._transport.is_closing():
            host, port = action.destination
            self._transport.sendto(action.data, (V4_MAPPED + host if self._is_ipv6 and ":" not in host else host, port))
            self.counters["sent"] += 1

    def _arm(self, local: Local, agent: _Agent) -> None:
        if agent.timer is not None:
            agent.timer.cancel()
            agent.timer = None
        deadline = agent.core.deadline()
        if deadline is not None:
            agent.timer = self._loop.call_at(deadline, self._expire, local, agent)

    def _expire(self, local: Local, agent: _Agent) -> None:
        agent.timer = None
        self._feed(local, agent, agent.core.expire)
