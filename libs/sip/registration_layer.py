"""Registrations on the socket of the calls: their requests get client transactions, the answers go back by branch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType

from libs.sip.dialog import Address
from libs.sip.dialog_layer import DialogLayer, Doorkeeper, UaConfig, client_key
from libs.sip.digest import Credentials
from libs.sip.errors import SipStateError
from libs.sip.events import Action, Send
from libs.sip.message import Response
from libs.sip.registration import (
    LocalParty,
    Registration,
    RegistrationConfig,
    SendKeepAlive,
    SendRequest,
    Step,
    Unregistered,
)
from libs.sip.transaction import ClientNonInvite


class RegistrationLayer(DialogLayer):
    """Trunks that we register. Names are the application's; one name is one registration."""

    def __init__(
        self, config: UaConfig, new_token: Callable[[], str], credentials: Credentials | None = None,
        doorkeeper: Doorkeeper | None = None,
    ) -> None:  # fmt: skip
        super().__init__(config, new_token, credentials, doorkeeper)
        self._registrations: dict[str, Registration] = {}

    @property
    def registrations(self) -> Mapping[str, Registration]:
        """State of each registration by name, until it is taken back."""
        return MappingProxyType(self._registrations)

    def register(self, name: str, config: RegistrationConfig, now: float) -> list[Action]:
        """Register a trunk and keep it registered; `Registered` or `RegistrationFailed` follow, the latter repeatedly.

        Raises SipParseError for a registrar or address of record that is no SIP URI, SipStateError for a name in use.
        """
        if name in self._registrations:
            raise SipStateError(f"registration {name} exists already")
        contact = self._config.contact_of(config.contact_user or self._config.contact_user)
        local = LocalParty(
            contact, self._config.user_agent, self._via, self._new_branch, self._jitter, self._config.is_reliable
        )
        registration = Registration(name, config, local, self._new_token)
        self._registrations[name] = registration
        return self._carry_out(registration, registration.start(now), now)

    def unregister(self, name: str, now: float) -> list[Action]:
        """Take a registration back; `Unregistered` follows. Nothing when there is none by this name."""
        registration = self._registrations.get(name)
        return self._carry_out(registration, registration.stop(now), now) if registration is not None else []

    def network_returned(self, now: float) -> list[Action]:
        """Register every trunk anew at once: our address or the way to the providers has changed or come back."""
        return [
            action
            for registration in list(self._registrations.values())
            for action in self._carry_out(registration, registration.network_returned(now), now)
        ]

    def _carry_out(self, registration: Registration, steps: Iterable[Step], now: float) -> list[Action]:
        actions: list[Action] = []
        for step in steps:
            match step:
                case SendRequest():
                    transaction = ClientNonInvite(self._timers, step.destination, step.data, now)
                    transaction.registration = registration.name
                    self._add_transaction(client_key(step.branch, step.method), transaction)
                    actions.append(Send(step.data, step.destination))
                case SendKeepAlive():
                    actions.append(Send(step.data, step.destination))
                case _:
                    if isinstance(step, Unregistered):
                        del self._registrations[registration.name]
                    actions.append(step)
        is_kept = registration.name in self._registrations
        self._deadlines.set(("registration", registration.name), registration.deadline() if is_kept else None)
        return actions

    def _registration_answered(self, name: str, response: Response, now: float) -> list[Action]:
        registration = self._registrations.get(name)
        if registration is None:
            return []
        return self._carry_out(registration, registration.answered(response.via.branch, response, now), now)

    def _registration_timed_out(self, name: str, branch: str, now: float) -> list[Action]:
        registration = self._registrations.get(name)
        return self._carry_out(registration, registration.timed_out(branch, now), now) if registration else []

    def _registration_cut_off(self, name: str, branch: str, now: float) -> list[Action]:
        registration = self._registrations.get(name)
        return self._carry_out(registration, registration.cut_off(branch, now), now) if registration else []

    def _flow_lost(self, peer: Address, now: float) -> list[Action]:
        return [
            action
            for registration in list(self._registrations.values())
            if registration.config.destination == peer
            for action in self._carry_out(registration, registration.flow_lost(now), now)
        ]

    def _expire_registration(self, name: str, now: float) -> list[Action]:
        registration = self._registrations.get(name)
        return self._carry_out(registration, registration.expire(now), now) if registration is not None else []
