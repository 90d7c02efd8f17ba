"""The provider's account: found by name, registered with, kept registered, taken back at the end.

The registration itself (refresh, digest, back-off) is a core in `libs/sip`; this shell resolves the provider's name,
again whenever it stops answering, and lets the provider's address call us.
"""

from __future__ import annotations

import asyncio
import socket
from dataclasses import dataclass

from tenacity import AsyncRetrying, retry_if_exception_type, wait_random_exponential

from libs.runtime.log import get_logger
from libs.sip.registration import (
    Registered,
    RegistrationConfig,
    RegistrationEvent,
    RegistrationFailed,
    RegistrationState,
    Unregistered,
)
from services.sip_gateway.transport import Local, SipTransport

log = get_logger()

NAME = "trunk"
LONGEST_RETRY_S = 60.0
GOODBYE_S = 2.0


@dataclass(frozen=True, slots=True)
class Account:
    """What the provider gave us."""

    server: str
    port: int
    username: str
    password: str


class Trunk:
    """One account. `run` lasts as long as the service; `on_event` hears of its registration from the gateway."""

    def __init__(self, account: Account, transport: SipTransport) -> None:
        self._account = account
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._look_up = asyncio.Event()
        self._gone = asyncio.Event()
        self._local = Local("")
        self._destination: tuple[str, int] | None = None

    @property
    def state(self) -> str:
        """For metrics and people: `registered`, `registering`, `failed` …"""
        registration = self._transport.core(self._local).registrations.get(NAME) if self._destination else None
        return registration.state if registration is not None else RegistrationState.UNREGISTERED

    async def run(self) -> None:
        """Register, and look the provider up again whenever it is silent, until cancelled."""
        while True:
            self._look_up.clear()
            destination = await self._resolve()
            if destination != self._destination:
                self._register_at(destination)
            await self._look_up.wait()

    async def _resolve(self) -> tuple[str, int]:
        account = self._account
        forever = AsyncRetrying(
            retry=retry_if_exception_type(OSError),
            wait=wait_random_exponential(max=LONGEST_RETRY_S),
            before_sleep=lambda state: log.warning(
                "the SIP provider's name does not resolve; trying again",
                server=account.server,
                wait_s=round(state.upcoming_sleep, 1),
            ),
        )

        async def look_up() -> tuple[str, int]:
            found = await self._loop.getaddrinfo(
                account.server, account.port, family=socket.AF_INET, type=socket.SOCK_DGRAM
            )
            host, port = found[0][4][:2]
            return str(host), int(port)

        return await forever(look_up)

    def _register_at(self, destination: tuple[str, int]) -> None:
        self._unregister()
        account, now = self._account, self._loop.time()
        self._destination = destination
        self._local = self._transport.local(destination[0])
        self._transport.allow(destination[0])
        config = RegistrationConfig(
            registrar_uri=f"sip:{account.server}",
            aor=f"sip:{account.username}@{account.server}",
            username=account.username,
            password=account.password,
            destination=destination,
            contact_user=account.username,
        )
        core = self._transport.core(self._local)
        log.info("registering", server=account.server, address=f"{destination[0]}:{destination[1]}")
        self._transport.perform(self._local, core.register(NAME, config, now))

    def on_event(self, event: RegistrationEvent) -> None:
        """Registered, failed, gone."""
        match event:
            case Registered():
                log.info("registered with the SIP provider", server=self._account.server, expires_s=event.expires_s)
            case RegistrationFailed():
                log.warning(
                    "not registered with the SIP provider; trying again",
                    server=self._account.server, status=event.status, reason=event.reason, retry_s=round(event.retry_s),
                )  # fmt: skip
                if event.status is None:  # silence: it may live at another address now
                    self._look_up.set()
            case Unregistered():
                self._gone.set()

    def _unregister(self) -> None:
        if self._destination is not None:
            core = self._transport.core(self._local)
            self._transport.perform(self._local, core.unregister(NAME, self._loop.time()))

    async def leave(self) -> None:
        """Take the registration back, so that the provider rings nobody; waits for its answer only briefly."""
        if self.state in (RegistrationState.UNREGISTERED, RegistrationState.FAILED):
            return
        self._unregister()
        try:
            async with asyncio.timeout(GOODBYE_S):
                await self._gone.wait()
        except TimeoutError:
            log.info("the SIP provider did not confirm the end of the registration")
