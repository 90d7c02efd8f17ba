"""The shell around the SIP core: message in, feed the core, send what it says, arm its one timer.

Peers must be able to reach the address in Contact, and it depends on where they are: one user agent per local address
and transport, the address chosen by the route towards the source. UDP is here, TCP and TLS in `stream`. Sources outside
the allowed networks get no answer at all: nobody out there learns that something listens.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from ipaddress import ip_address
from typing import Literal

from libs.runtime.log import get_logger
from libs.sip.dialog_layer import Doorkeeper
from libs.sip.digest import Credentials
from libs.sip.events import Action, Send
from libs.sip.uri import Transport
from libs.sip.user_agent import UaConfig, UserAgent
from services.sip_gateway.settings import Network
from services.sip_gateway.stream import V4_MAPPED, WILDCARDS, StreamConnections, StreamLimits, TlsFiles, plain

log = get_logger()

LINGER_POLL_S = 0.02

MessageHook = Callable[[Literal["in", "out"], Transport, str, str, bytes], None]
"""Direction, transport, local and remote `host:port`, and the bytes of one message."""


def _written(address: tuple[str, int]) -> str:
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


@dataclass(frozen=True, slots=True)
class Local:
    """One of our user agents: the address that its peers reach, and the transport that it speaks."""

    host: str
    transport: Transport = "udp"


def route_towards(host: str) -> str:
    """Our address on the route to `host`, as it is now. Connecting a UDP socket sends nothing."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((host, 9))
        except OSError:
            return "::1" if family == socket.AF_INET6 else "127.0.0.1"
        return str(probe.getsockname()[0])


local_address_towards = lru_cache(maxsize=4096)(route_towards)


class _Agent:
    """One user agent with its timer."""

    def __init__(self, core: UserAgent) -> None:
        self.core = core
        self.timer: asyncio.TimerHandle | None = None


class SipTransport(asyncio.DatagramProtocol):
    """`on_event` is called with the local user agent and each action that is not a datagram to send."""

    def __init__(  # noqa: PLR0913  where, for whom, and three settings of libraries that stand by themselves
        self, host: str, public_host: str | None, allowed: Iterable[Network], on_event: Callable[[Local, Action], None],
        *, tls: TlsFiles | None = None, limits: StreamLimits | None = None, template: UaConfig | None = None,
    ) -> None:  # fmt: skip
        """`template` holds the settings of all user agents; address, port and transport are filled in."""
        self._host = plain(host)
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
        self._template = template or UaConfig("", 0)
        # set before the first message: who we are when providers ask, whom we ask, who sees all messages
        self.credentials: Credentials | None = None
        self.doorkeeper: Doorkeeper | None = None
        self.on_message: MessageHook | None = None
        self.port = 0
        self.ports: dict[Transport, int] = {}
        """Where we listen; `port` is that of UDP."""
        self.counters: Counter[str] = Counter()
        self._streams = StreamConnections(self, self._host, tls or TlsFiles(), limits or StreamLimits(), self.counters)

    async def open(self, port: int, tcp_port: int | None = None, tls_port: int | None = None) -> None:
        """Listen; 0 takes a free port, None listens not at all. Connections can be opened in any case.

        Raises:
            OSError: the address is taken or not ours, or a file for TLS cannot be read.
        """
        await self._loop.create_datagram_endpoint(lambda: self, local_addr=(self._host, port))
        if tcp_port is not None:
            self.ports["tcp"] = self._streams.listen("tcp", tcp_port)
        if tls_port is not None:
            self.ports["tls"] = self._streams.listen("tls", tls_port)

    @property
    def family(self) -> socket.AddressFamily:
        """What we can talk to: one IP version, or both (AF_UNSPEC) when listening on `::`."""
        if self._host == "::":
            return socket.AF_UNSPEC
        return socket.AF_INET6 if ":" in self._host else socket.AF_INET

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
        self._transport = transport
        own_host, self.port = transport.get_extra_info("sockname")[:2]
        self.ports["udp"] = self.port
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
        self._streams.close()

    def answers(self, host: str) -> bool:
        """Whether this source gets an answer at all."""
        return self._is_allowed(host) or host in self._also_allowed

    def allow(self, host: str, server_name: str = "") -> None:
        """Answer this address, too: the provider's. Over TLS its certificate must be for `server_name`, else `host`.

        Nobody may take the place of a server with a name: a TLS connection that comes in from the very address and port
        that we would connect to, from where no certificate was shown, is refused.
        """
        self._also_allowed.add(host)
        if server_name:
            self._streams.server_names[host] = server_name

    @property
    def connections(self) -> int:
        """TCP and TLS connections that exist."""
        return self._streams.count

    def route_towards(self, host: str) -> str:
        """Our address on the route to `host` at this moment, to notice when it changes."""
        return route_towards(host)

    def network_returned(self) -> None:
        """Our address or the way to the providers changed: look at the routes anew, register anew."""
        local_address_towards.cache_clear()
        for local, agent in list(self._agents.items()):
            self._feed(local, agent, agent.core.network_returned)

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
            # who does not listen for TCP is reached over the connection that it opened: any port will do in Contact
            port = self.ports.get(local.transport, self.port)
            config = replace(self._template, local_host=local.host, local_port=port, transport=local.transport)
            core = UserAgent(config, lambda: secrets.token_hex(8), self.credentials, self.doorkeeper)
            agent = self._agents[local] = _Agent(core)
        return agent

    # -- in ------------------------------------------------------------------------------------------------

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        source = (plain(addr[0]), addr[1])
        self.counters["received"] += 1
        if not self.answers(source[0]):
            self.counters["source_not_allowed"] += 1
            return
        self._received(self.local(source[0]), data, source)

    def stream_received(self, transport: Transport, message: bytes, peer: tuple[str, int]) -> None:
        """From `StreamConnections`: one message, or a ping."""
        self.counters["received"] += 1
        self._received(self.local(peer[0], transport), message, peer)

    def _received(self, local: Local, data: bytes, source: tuple[str, int]) -> None:
        agent = self._agent(local)
        if self.on_message is not None:
            self._shown("in", local, source, data)
        self._feed(local, agent, partial(agent.core.receive, data, source))

    def stream_lost(self, transport: Transport, peer: tuple[str, int]) -> None:
        """From `StreamConnections`: what waits for an answer from there has failed."""
        for local, agent in list(self._agents.items()):
            if local.transport == transport:
                self._feed(local, agent, partial(agent.core.connection_lost, peer))

    def stream_needed(self, transport: Transport, peer: tuple[str, int]) -> bool:
        """Whether a call, a registration or an open transaction needs the connection."""
        return any(local.transport == transport and agent.core.uses(peer) for local, agent in self._agents.items())

    def _shown(self, direction: Literal["in", "out"], local: Local, peer: tuple[str, int], data: bytes) -> None:
        assert self.on_message is not None
        own = _written((local.host, self.ports.get(local.transport, self.port)))
        try:
            self.on_message(direction, local.transport, own, _written(peer), data)
        except Exception:  # noqa: BLE001  a defect of those who watch costs no message
            self._defect("the hook for messages")

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
            return
        if self.on_message is not None:
            self._shown("out", local, action.destination, action.data)
        if local.transport != "udp":
            self._streams.send(local.transport, action.data, action.destination)
            self.counters["sent"] += 1
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
