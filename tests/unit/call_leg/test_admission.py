"""Who comes in: routes, hours, agents, room, limits; whatever a caller calls himself."""

from datetime import UTC, datetime

import pytest
from hypothesis import given, strategies as st

from libs.call_leg.admission import Admitted, Arrival, Limits, Refused, admit, at_limit, within_budget
from libs.contracts.agent import AgentConfig
from libs.contracts.config import Fallback, OpeningHours, OrgConfig, RouteConfig, RouteTable
from libs.contracts.termination import Reason, Termination

MONDAY_NOON = datetime(2026, 11, 23, 11, 0, tzinfo=UTC)
SUNDAY = datetime(2026, 11, 22, 11, 0, tzinfo=UTC)
HOURS = OpeningHours(timezone="Europe/Berlin", weekly=("mon-fri 08:00-17:30",))
NIGHT = Fallback(kind="transfer", number="+493099999")


class Published:
    def __init__(self, *documents):
        self.documents = {document.key: document for document in documents}
        self.table = RouteTable(each for each in documents if isinstance(each, RouteConfig))

    def route(self, callee, entrance="sip", trunk=None):
        return self.table.find(callee, entrance, trunk)

    def agent(self, org, name):
        return self.documents.get(f"agent.{org}.{name}")

    def organisation(self, name):
        return self.documents.get(f"org.{name}")


AGENT = AgentConfig(name="ada")


def route(name="r", *match, agent="ada", **more):
    return RouteConfig(name=name, match=match or ("+49301234567",), agent=agent, **more)


def decide(*documents, now=MONDAY_NOON, no_room=None, **more):
    arrival = Arrival(**({"call": "c", "entrance": "sip", "caller": "0171 2345678", "callee": "030 1234567"} | more))
    return admit(arrival, Published(*documents), now, no_room)


def test_a_call_for_a_route_meets_its_agent_with_both_numbers_in_e164():
    decided = decide(AGENT, route())
    assert isinstance(decided, Admitted)
    assert (decided.caller, decided.callee) == ("+491712345678", "+49301234567")
    assert (decided.route.name, decided.agent, decided.limits) == ("r", AGENT, None)


def test_numbers_without_prefix_belong_to_the_trunks_country():
    decided = decide(AGENT, route("r", "+41446681800"), callee="044 668 18 00", country="CH")
    assert isinstance(decided, Admitted)


@pytest.mark.parametrize(
    ("documents", "more", "reason", "fallback"),
    [
        ([AGENT], {}, Reason.NO_ROUTE, None),
        ([route()], {}, Reason.UNKNOWN_AGENT, Fallback()),
        ([AGENT, route(hours=HOURS)], {"now": SUNDAY}, Reason.OUTSIDE_HOURS, Fallback()),
        ([AGENT, route(hours=HOURS, after_hours=NIGHT)], {"now": SUNDAY}, Reason.OUTSIDE_HOURS, NIGHT),
        ([AGENT, route(entrance="twilio")], {}, Reason.NO_ROUTE, None),
        ([AGENT, route(trunk="north")], {"trunk": "south"}, Reason.NO_ROUTE, None),
        ([AGENT, route()], {"no_room": Termination.of(Reason.DRAINING)}, Reason.DRAINING, Fallback()),
        ([], {"no_room": Termination.of(Reason.AT_CAPACITY)}, Reason.AT_CAPACITY, None),
    ],
)
def test_who_may_not_come_in_learns_why_and_gets_the_fallback_of_the_route(documents, more, reason, fallback):
    decided = decide(*documents, **more)
    assert isinstance(decided, Refused)
    assert (decided.termination.reason, decided.fallback) == (reason, fallback)


def test_within_its_hours_a_route_is_open():
    assert isinstance(decide(AGENT, route(hours=HOURS)), Admitted)


def test_a_route_of_an_organisation_brings_its_limits():
    org = OrgConfig(name="acme", max_calls=3, attempts_per_minute=20)
    decided = decide(AgentConfig(name="ada", org="acme"), route(org="acme"), org)
    assert isinstance(decided, Admitted)
    assert (decided.org, decided.limits) == ("acme", Limits(3, 20))
    full, busy = at_limit(decided, Reason.AT_CAPACITY), at_limit(decided, Reason.TOO_MANY_ATTEMPTS)
    assert full.termination.detail == "organisation acme has 3 calls, as many as it may"
    assert busy.termination.detail == "organisation acme had 20 calls within a minute, as many as it may"
    assert full.fallback == decided.route.fallback
    assert isinstance(decide(AGENT, route(), OrgConfig(name="default")), Admitted)
    assert decide(AGENT, route(), OrgConfig(name="default")).limits is None


def test_a_user_name_is_found_as_it_was_dialled():
    assert isinstance(decide(AGENT, route("r", "0301234567"), callee="0301234567"), Admitted)
    assert isinstance(decide(AGENT, route("r", "bestellung"), callee="bestellung"), Admitted)


HOSTILE = [
    "", "anonymous", "\x00", "\ud800", "a" * 1000, "1" * 1000, "'; DROP TABLE calls; --", "\u202e+49301", "👩‍🚀" * 40,
    "+" * 70, "tel:", "٠١٢٣٤٥٦٧٨٩", "＋４９３０１２３４５６７", "~.*", "*", "{{tool:x}}", "\r\nVia: x",
]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE)
def test_no_caller_and_no_callee_breaks_anything(text):
    for more in ({"caller": text}, {"callee": text}):
        decided = decide(AGENT, route("all", "*", "~.*[0-9].*"), **more)
        assert isinstance(decided, Admitted)
        for each in (decided.caller, decided.callee):
            assert 0 < len(each) <= 64
            assert each.isprintable()
            each.encode()


@given(st.text(max_size=200), st.text(max_size=200), st.sampled_from(["DE", "XX", "", "US"]))
def test_whatever_is_dialled_the_answer_is_a_decision(caller, callee, country):
    decided = decide(AGENT, route("all", "*"), caller=caller, callee=callee, country=country)
    assert isinstance(decided, Admitted)
    assert len(decided.caller) <= 64


def test_an_organisation_that_spent_its_day_gets_the_routes_fallback():
    admitted = decide(AGENT, route(fallback=NIGHT))
    org = OrgConfig(name="default", max_usd_per_day=5)
    assert within_budget(admitted, org, 4.99) is admitted
    assert within_budget(admitted, OrgConfig(name="default"), 1e6) is within_budget(admitted, None, 1e6) is admitted
    refused = within_budget(admitted, org, 5.0)
    assert isinstance(refused, Refused)
    assert (refused.termination.reason, refused.fallback) == (Reason.BUDGET_SPENT, NIGHT)
    assert refused.termination.detail == "organisation default has spent its 5 USD of this day (UTC)"
