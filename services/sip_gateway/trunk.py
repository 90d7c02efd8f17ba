"""One trunk at work: its servers found by name, registered with where it has an account, taken back at the end.

The registration itself (refresh, digest, back-off) is a core in `libs/sip`; this shell resolves the trunk's name, goes
on to its next server when one is silent, and lets the servers' addresses call us. What never registers is resolved all
the same: calls go there, and come from there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

from tenacity import AsyncRetrying, retry_if_exception_type, wait_random_exponential

from libs.call_leg.fences import OutboundFence
from libs.runtime.log import get_logger
from libs.sip.registration import (
    Registered,
    Registration,
    RegistrationConfig,
    RegistrationEvent,
    RegistrationFailed,
    RegistrationState,
    Unregistered,
)
from services.sip_gateway.instruments import TRUNK_STATE
from services.sip_gateway.resolve import Resolver, split_server
from services.sip_gateway.transport import Local, SipTransport, local_address_towards
from services.sip_gateway.trunk_states import TrunkStateName
from services.sip_gateway.trunks import TrunkConfig, TrunkTable

log = get_logger()

LONGEST_RETRY_S = 60.0
LOOK_AGAIN_S = 300.0  # names of trunks that do not register: nothing else tells that they moved
ROUTE_LOOK_S = 10.0
GOODBYE_S = 2.0

Address = tuple[str, int]


class Trunk:
    """`run` lasts as long as the service; `on_event` hears of its registration from the gateway."""

    def __init__(
        self, config: TrunkConfig, contact_user: str, transport: SipTransport, table: TrunkTable, resolver: Resolver
    ) -> None:
        self.config = config
        self.fence = OutboundFence(config.rules)
        self._contact_user = contact_user
        self._transport = transport
        self._table = table
        self._resolver = resolver
        self._loop = asyncio.get_running_loop()
        self._next_server = asyncio.Event()
        self._gone = asyncio.Event()
        self._local = Local("")
        self._registered_at: Address | None = None
        self.destinations: tuple[Address, ...] = ()
        """The trunk's servers, the preferred first; calls of ours go there."""
        self.problem = ""
        self.next_try_at: float | None = None

    @property
    def _registration(self) -> Registration | None:
        if self._registered_at is None:
            return None
        return self._transport.core(self._local).registrations.get(self.config.name)

    @property
    def state(self) -> TrunkStateName:
        """The registration's state; without one `ready`, or `unresolved` while its server's name is not known."""
        if self.config.registers:
            registration = self._registration
            return registration.state.value if registration is not None else RegistrationState.UNREGISTERED.value
        return "ready" if self.destinations or not self.config.server else "unresolved"

    @property
    def is_usable(self) -> bool:
        """Whether calls can be placed through it now. A registration that failed makes no call impossible by itself,
        but the provider that does not want us would refuse it."""
        return bool(self.destinations) and self.state in ("registered", "ready")

    def status(self) -> dict[str, Any]:
        """For `v1.rpc.sip_gateway.trunks`."""
        now, config, registration = self._loop.time(), self.config, self._registration
        at = self._registered_at or (self.destinations[0] if self.destinations else None)
        expires_at = registration.expires_at if registration is not None else None
        return {
            "name": config.name, "state": self.state, "registers": config.registers, "server": config.server or "",
            "address": f"{at[0]}:{at[1]}" if at else "", "transport": config.transport,
            "organisation": config.organisation, "caller": config.caller, "problem": self.problem,
            "expires_in_s": None if expires_at is None else round(expires_at - now),
            "next_try_in_s": None if self.next_try_at is None else max(0, round(self.next_try_at - now)),
        }  # fmt: skip

    def local(self, destination: Address) -> Local:
        """The user agent that this trunk's server sees."""
        return self._transport.local(destination[0], self.config.transport)

    # -- finding and registering -------------------------------------------------------------------------------

    async def run(self) -> None:
        """Find the servers and register, on and on, until cancelled."""
        if not self.config.server:
            return
        while True:
            self._found(await self._resolve())
            if not self.config.registers:
                await asyncio.sleep(LOOK_AGAIN_S)
                continue
            for destination in self.destinations:
                self._next_server.clear()
                if destination != self._registered_at:
                    self._register_at(destination)
                await self._next_server.wait()

    def _found(self, destinations: tuple[Address, ...]) -> None:
        self.destinations = destinations
        hosts = [host for host, _ in destinations]
        self._table.resolved(self.config.name, hosts)
        for host in hosts:
            self._transport.allow(host, split_server(self.config.outbound_proxy or self.config.server or "")[0])

    async def _resolve(self) -> tuple[Address, ...]:
        server = self.config.outbound_proxy or self.config.server or ""

        def failed(state: Any) -> None:
            wait_s = state.upcoming_sleep
            self.problem, self.next_try_at = "its name does not resolve", self._loop.time() + wait_s
            log.warning("a SIP trunk's name does not resolve; trying again",
                        trunk=self.config.name, server=server, wait_s=round(wait_s, 1))  # fmt: skip

        forever = AsyncRetrying(
            retry=retry_if_exception_type(OSError), wait=wait_random_exponential(max=LONGEST_RETRY_S),
            before_sleep=failed,
        )  # fmt: skip
        found: tuple[Address, ...] = await forever(self._look_up, server)
        if self.problem == "its name does not resolve":
            self.problem, self.next_try_at = "", None
        return found

    async def _look_up(self, server: str) -> tuple[Address, ...]:
        port = None if self.config.outbound_proxy else self.config.port
        found = await self._resolver.resolve(server, self.config.transport, port)
        return tuple(destination.address for destination in found.all)

    def _register_at(self, destination: Address) -> None:
        self._unregister()
        config, now = self.config, self._loop.time()
        login = config.login
        assert login is not None  # of one that registers
        self._registered_at, self._local = destination, self.local(destination)
        registration = RegistrationConfig(
            registrar_uri=f"sip:{config.server}", aor=f"sip:{config.username}@{config.domain}",
            username=login.username, password=login.password, destination=destination,
            contact_user=self._contact_user, expires_s=config.register_expires_s, keep_alive_s=config.keepalive_s,
        )  # fmt: skip
        core = self._transport.core(self._local)
        log.info("registering", trunk=config.name, server=config.server, address=f"{destination[0]}:{destination[1]}")
        self._transport.perform(self._local, core.register(config.name, registration, now))

    def network_returned(self) -> None:
        """The way to the registrar is another one now."""
        at = self._registered_at
        if at is None:
            return
        log.info("the network has changed: registering anew", trunk=self.config.name)
        if self.local(at) != self._local:  # another address of ours: another Contact, by another user agent
            self._register_at(at)
        else:
            core = self._transport.core(self._local)
            self._transport.perform(self._local, core.network_returned(self._loop.time()))

    def on_event(self, event: RegistrationEvent) -> None:
        """Registered, failed, gone."""
        match event:
            case Registered():
                self.problem, self.next_try_at = "", None
                log.info("registered with the SIP provider", trunk=self.config.name, expires_s=event.expires_s)
            case RegistrationFailed():
                self.problem = f"{event.status or ''} {event.reason}".strip()
                self.next_try_at = self._loop.time() + event.retry_s
                log.warning(
                    "not registered with the SIP provider; trying again", trunk=self.config.name,
                    server=self.config.server, status=event.status, reason=event.reason, retry_s=round(event.retry_s),
                )  # fmt: skip
                if event.status is None or event.status >= 500:  # another server of theirs, or another address by now
                    self._next_server.set()
            case Unregistered():
                self._gone.set()

    def _unregister(self) -> None:
        if self._registered_at is not None:
            core = self._transport.core(self._local)
            self._transport.perform(self._local, core.unregister(self.config.name, self._loop.time()))

    async def leave(self) -> None:
        """Take the registration back, so that the provider rings nobody; waits for its answer only briefly."""
        if self.state not in ("registered", "registering"):
            return
        self._gone.clear()
        self._unregister()
        try:
            async with asyncio.timeout(GOODBYE_S):
                await self._gone.wait()
        except TimeoutError:
            log.info("the SIP provider did not confirm the end of the registration", trunk=self.config.name)


class Trunks:
    """All trunks of the gateway. `run` lasts as long as the service."""

    def __init__(self, table: TrunkTable, transport: SipTransport) -> None:
        self.table = table
        self._transport = transport
        self._seen: set[tuple[str, str]] = set()  # trunk and state
        resolver = Resolver(transport.family)
        self._by_name = {
            config.name: Trunk(config, table.contact_users.get(config.name, ""), transport, table, resolver)
            for config in table
        }

    def __iter__(self) -> Iterator[Trunk]:
        return iter(self._by_name.values())

    def named(self, name: str) -> Trunk | None:
        """The trunk of this name."""
        return self._by_name.get(name)

    def on_event(self, event: RegistrationEvent) -> None:
        """What a registration core told."""
        if (trunk := self._by_name.get(event.registration)) is not None:
            trunk.on_event(event)

    async def run(self) -> None:
        """Resolve and register them, and notice when the network has come back, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for trunk in self:
                tasks.create_task(trunk.run())
            if any(trunk.config.registers for trunk in self):
                tasks.create_task(self._watch_route())

    async def _watch_route(self) -> None:
        """Our address towards a registrar changed: what is registered leads nowhere, no back-off is worth its wait."""
        known: dict[str, str] = {}
        while True:
            await asyncio.sleep(ROUTE_LOOK_S)
            local_address_towards.cache_clear()
            for trunk in self:
                if trunk.config.registers and trunk.destinations:
                    route = self._transport.route_towards(trunk.destinations[0][0])
                    if known.setdefault(trunk.config.name, route) != route:
                        known[trunk.config.name] = route
                        trunk.network_returned()

    async def leave(self) -> None:
        """Take all registrations back."""
        await asyncio.gather(*(trunk.leave() for trunk in self))

    def export(self) -> None:
        """`callbus_trunk_state{trunk,state}`: 1 for the present state of each trunk, 0 for those that it had before."""
        TRUNK_STATE.read_from(self._states)

    def _states(self) -> dict[tuple[str, str], float]:
        present = {(trunk.config.name, trunk.state) for trunk in self}
        self._seen |= present
        return {pair: float(pair in present) for pair in sorted(self._seen)}
