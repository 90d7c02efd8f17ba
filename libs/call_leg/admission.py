"""Whether a call may come in, and which agent answers it. Decisions only; a core without I/O.

Order of the questions: has this gateway room, is there a route, is it open, is its agent published, has the
organisation something left to spend today; and last, by the shell, whether its limits leave a place
(`libs.call_leg.slots`).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Protocol

from libs.call_leg.numbers import LONGEST, normalise
from libs.contracts.agent import DEFAULT_ORG, AgentConfig
from libs.contracts.config import Fallback, OrgConfig, RouteConfig
from libs.contracts.termination import Reason, Termination

EntranceName = Literal["sip", "twilio", "browser"]


@dataclass(frozen=True, slots=True)
class Arrival:
    """A call as an entrance saw it come: caller and callee as they stand in the message, not yet normalised."""

    call: str
    entrance: EntranceName
    caller: str
    callee: str
    trunk: str | None = None
    country: str = "DE"  # the trunk's: what numbers without international prefix belong to


@dataclass(frozen=True, slots=True)
class Limits:
    """What an organisation may have: calls at the same time, calls let in within any 60 s; None is no limit."""

    max_calls: int | None = None
    attempts_per_minute: int | None = None


@dataclass(frozen=True, slots=True)
class Admitted:
    """The call may come in. `limits` is None when its organisation has none, and nothing is left to ask."""

    call: str
    org: str
    caller: str
    callee: str
    route: RouteConfig
    agent: AgentConfig
    limits: Limits | None = None


@dataclass(frozen=True, slots=True)
class Refused:
    """The call gets no leg. `fallback` is the route's; None: a plain refusal that fits the termination."""

    call: str
    org: str
    caller: str
    callee: str
    termination: Termination
    route: RouteConfig | None = None
    fallback: Fallback | None = None


class Directory(Protocol):
    """The published configuration; `libs.runtime.config_copy.ConfigCopy` is one."""

    def route(self, callee: str, entrance: str = ..., trunk: str | None = ...) -> RouteConfig | None:
        """The route that serves a dialled number."""

    def agent(self, org: str, name: str) -> AgentConfig | None:
        """The published agent of this name."""

    def organisation(self, name: str) -> OrgConfig | None:
        """The organisation of this name."""


def admit(arrival: Arrival, directory: Directory, now: datetime, no_room: Termination | None) -> Admitted | Refused:
    """Decide about a call, its organisation's limits aside.

    `now` has a zone; `no_room` is why this gateway takes no further call (full, draining), or None.
    """
    caller, callee = normalise(arrival.caller, arrival.country), normalise(arrival.callee, arrival.country)
    route = _route(arrival, directory, callee)
    org = DEFAULT_ORG if route is None else route.org

    def refused(reason: Reason, detail: str, fallback: Fallback | None = None) -> Refused:
        return Refused(arrival.call, org, caller, callee, Termination.of(reason, detail), route, fallback)

    if no_room is not None:  # before the route's absence: it may only not be loaded yet
        fallback = None if route is None else route.fallback
        return Refused(arrival.call, org, caller, callee, no_room, route, fallback)
    if route is None:
        return refused(Reason.NO_ROUTE, f"no route serves {callee}")
    if route.hours is not None and not route.hours.is_open(now):
        return refused(Reason.OUTSIDE_HOURS, f"route {route.name} is closed now", route.after_hours or route.fallback)
    agent = directory.agent(org, route.agent)
    if agent is None:
        detail = f"route {route.name} names the agent {route.agent}, which is not published"
        return refused(Reason.UNKNOWN_AGENT, detail, route.fallback)
    return Admitted(arrival.call, org, caller, callee, route, agent, limits_of(directory.organisation(org)))


def within_budget(admitted: Admitted, org: OrgConfig | None, spent_usd: float) -> Admitted | Refused:
    """The same call, unless its organisation has spent its day's budget: then the route's fallback takes it."""
    why = beyond_budget(org, spent_usd)
    if why is None:
        return admitted
    route = admitted.route
    return Refused(admitted.call, admitted.org, admitted.caller, admitted.callee, why, route, route.fallback)


def beyond_budget(org: OrgConfig | None, spent_usd: float) -> Termination | None:
    """Why no further call may begin today; None: the budget is not spent, or there is none."""
    if org is None or org.max_usd_per_day is None or spent_usd < org.max_usd_per_day:
        return None
    return Termination.of(
        Reason.BUDGET_SPENT, f"organisation {org.name} has spent its {org.max_usd_per_day:g} USD of this day (UTC)"
    )


def at_limit(admitted: Admitted, reason: Reason) -> Refused:
    """The organisation's limits leave no place: `AT_CAPACITY` or `TOO_MANY_ATTEMPTS`."""
    why = beyond(admitted.limits or Limits(), admitted.org, reason)
    route = admitted.route
    return Refused(admitted.call, admitted.org, admitted.caller, admitted.callee, why, route, route.fallback)


def beyond(limits: Limits, org: str, reason: Reason) -> Termination:
    """Which of an organisation's limits leaves no place."""
    if reason is Reason.AT_CAPACITY:
        return Termination.of(reason, f"organisation {org} has {limits.max_calls} calls, as many as it may")
    most = limits.attempts_per_minute
    return Termination.of(reason, f"organisation {org} had {most} calls within a minute, as many as it may")


def limits_of(org: OrgConfig | None) -> Limits | None:
    """None when it has none."""
    if org is None or (org.max_calls is None and org.attempts_per_minute is None):
        return None
    return Limits(org.max_calls, org.attempts_per_minute)


def _route(arrival: Arrival, directory: Directory, callee: str) -> RouteConfig | None:
    """By the normalised number; then as it was dialled, for routes that name users or numbers of a PBX."""
    found = directory.route(callee, arrival.entrance, arrival.trunk)
    dialled = arrival.callee
    if found is None and dialled != callee and len(dialled) <= LONGEST:
        found = directory.route(dialled, arrival.entrance, arrival.trunk)
    return found
