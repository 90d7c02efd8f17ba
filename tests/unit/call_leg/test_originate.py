"""Outbound calls asked for on the bus: judged, placed once, and recorded when they are refused."""

import asyncio

import pytest

from libs.call_leg.admission_shell import Admission
from libs.call_leg.fences import OutboundFence, OutboundRules
from libs.call_leg.originate import Originations
from libs.contracts import subjects
from libs.contracts.agent import AgentConfig
from libs.contracts.config import OrgConfig
from libs.contracts.originate import AgentChanges, Originate, OriginateReply
from libs.contracts.termination import Reason, Termination

AGENT = AgentConfig(name="demo", backend="scripted")
NUMBER = "+493012345678"


class Config:
    """What `ConfigCopy` shows of itself."""

    def __init__(self, *agents):
        self.loaded = asyncio.Event()
        self.loaded.set()
        self.limits = {}
        self._agents = {(agent.org, agent.name): agent for agent in agents}

    def agent(self, org, name):
        return self._agents.get((org, name))

    def organisation(self, name):
        return self.limits.get(name)

    def organisations(self):
        return self.limits.values()


class Bench:
    """Originations beside real legs, with an entrance that writes down what it should place."""

    def __init__(self, gateway, trunks=None, agents=(AGENT,)):
        self.legs = gateway.legs
        self.config = Config(*agents)
        self.trunks = trunks or {"main": OutboundFence(OutboundRules())}
        self.placed = []
        self.answer = None
        self.admission = Admission(gateway.bus, gateway.legs, self.config)  # not started: it counts for itself
        self.originations = Originations(
            "sip", gateway.legs, self.config, self.admission, lambda: self.trunks, self.place
        )

    async def place(self, placement):
        self.placed.append(placement)
        return self.answer

    async def ask(self, to=NUMBER, **fields):
        return await self.originations.originate("default", Originate(to=to, agent="demo", **fields))


@pytest.fixture
async def bench(gateway):
    return Bench(gateway)


async def test_a_call_is_placed_over_the_bus(gateway, bench):
    await bench.originations.start(gateway.bus)
    await gateway.bus.control.flush()
    request = Originate(to="030 12345678", agent="demo", changes=AgentChanges(voice="cedar", silence_ms=700))
    data = await gateway.bus.request(subjects.originate("default", "sip"), request.to_json(), 1)
    [placement] = bench.placed
    assert OriginateReply.model_validate_json(data) == OriginateReply(ok=True, call=placement.call, gw=gateway.gw)
    assert (placement.number, placement.trunk, placement.org) == (NUMBER, "main", "default")
    assert (placement.agent.voice, placement.agent.turn_taking.silence_ms) == ("cedar", 700)


async def test_the_organisation_is_the_subjects(gateway, bench):
    await bench.originations.start(gateway.bus)
    await gateway.bus.control.flush()
    data = await gateway.bus.request(subjects.originate("acme", "sip"), Originate(to=NUMBER, agent="demo").to_json(), 1)
    reply = OriginateReply.model_validate_json(data)
    assert (reply.ok, reply.reason) == (False, Reason.UNKNOWN_AGENT)
    assert "acme" in reply.error


async def test_nonsense_is_answered_and_the_next_request_served(gateway, bench):
    await bench.originations.start(gateway.bus)
    await gateway.bus.control.flush()
    data = await gateway.bus.request(subjects.originate("default", "sip"), b'{"to": 7', 1)
    assert "not understood" in OriginateReply.model_validate_json(data).error
    data = await gateway.bus.request(
        subjects.originate("default", "sip"), Originate(to=NUMBER, agent="demo").to_json(), 1
    )
    assert OriginateReply.model_validate_json(data).ok


async def test_the_same_request_again_is_the_same_call(bench):
    first = await bench.ask(request_id="r1")
    assert await bench.ask(request_id="r1") == first
    assert (await bench.ask(request_id="r2")).call != first.call
    assert len(bench.placed) == 2


async def test_a_refused_request_may_be_repeated(bench):
    assert not (await bench.ask("0900 1234567", request_id="r1")).ok
    assert (await bench.ask(request_id="r1")).ok


@pytest.mark.parametrize(
    ("fields", "reason", "word"),
    [
        ({"to": "0900 1234567"}, Reason.NUMBER_NOT_ALLOWED, "special-rate"),
        ({"to": "hallo"}, Reason.NUMBER_INVALID, "hallo"),
        ({"trunk": "other"}, Reason.TRUNK_FAILED, "main"),
    ],
)
async def test_what_cannot_be_placed_is_told_in_a_sentence_and_recorded(gateway, bench, fields, reason, word):
    reply = await bench.ask(**fields)
    assert (reply.ok, reply.reason) == (False, reason)
    assert word in reply.error
    assert bench.placed == []
    assert await gateway.outbox.flush(2)
    async with asyncio.timeout(2):
        subscription = await gateway.bus.js.subscribe(subjects.events_of("*"), ordered_consumer=True)
        offered = (await subscription.next_msg()).data
        ended = (await subscription.next_msg()).data
    assert b'"direction":"outbound"' in offered
    assert reason.value.encode() in ended


async def test_an_unknown_agent_and_a_missing_configuration(bench):
    reply = await bench.originations.originate("default", Originate(to=NUMBER, agent="nobody"))
    assert (reply.reason, "callbus apply" in reply.error) == (Reason.UNKNOWN_AGENT, True)
    bench.config.loaded.clear()
    assert (await bench.ask()).reason is Reason.NOT_READY


async def test_changes_that_do_not_fit_are_named(gateway):
    bench = Bench(gateway, agents=(AGENT.model_copy(update={"max_output_tokens": 0}),))
    reply = await bench.ask(changes=AgentChanges(voice="cedar"))
    assert "max_output_tokens" in reply.error


async def test_the_first_trunk_that_may_call_the_number_places_it(gateway):
    rules = {"home": OutboundRules(), "world": OutboundRules(allowed_prefixes=("+",), attempts_per_hour=1)}
    bench = Bench(gateway, {name: OutboundFence(rule) for name, rule in rules.items()})
    await bench.ask()
    await bench.ask("+431513580")
    assert [placement.trunk for placement in bench.placed] == ["home", "world"]
    assert (await bench.ask("+431513580")).reason is Reason.TOO_MANY_ATTEMPTS
    assert (await bench.ask()).ok
    assert (await bench.ask("+431513580", trunk="home")).reason is Reason.NUMBER_NOT_ALLOWED


async def test_a_gateway_without_trunks_says_so(gateway):
    bench = Bench(gateway)
    bench.trunks = {}
    assert (await bench.ask()).reason is Reason.TRUNK_FAILED


async def test_a_draining_gateway_places_nothing(gateway, bench):
    gateway.legs.draining = True
    assert (await bench.ask()).reason is Reason.DRAINING


async def test_the_entrances_own_objection_is_recorded_too(bench):
    bench.answer = Termination.of(Reason.AT_CAPACITY, "no RTP port is free")
    reply = await bench.ask()
    assert (reply.reason, reply.error) == (Reason.AT_CAPACITY, "no RTP port is free")


async def test_placed_calls_count_towards_the_organisations_limit_until_they_end(bench):
    bench.config.limits = {"default": OrgConfig(name="default", max_calls=1)}
    first = await bench.ask()
    assert first.ok
    refused = await bench.ask()
    assert (refused.reason, "organisation default has 1 calls" in refused.error) == (Reason.AT_CAPACITY, True)
    assert len(bench.placed) == 1
    bench.admission.release("default", first.call)
    assert (await bench.ask()).ok


async def test_a_call_that_is_not_placed_after_all_keeps_no_place(bench):
    bench.config.limits = {"default": OrgConfig(name="default", max_calls=1)}
    bench.answer = Termination.of(Reason.AT_CAPACITY, "no RTP port is free")
    for _ in range(2):
        assert (await bench.ask()).error == "no RTP port is free"


async def test_a_drain_that_begins_meanwhile_places_nothing(gateway, bench):
    async def place(org, call):
        gateway.legs.draining = True

    bench.admission.place = place
    assert (await bench.ask()).reason is Reason.DRAINING
    assert bench.placed == []


async def test_a_defect_refuses_one_request(bench):
    async def broken(placement):
        raise KeyError("x")

    bench.originations._place = broken
    assert (await bench.ask()).reason is Reason.INTERNAL_ERROR
    bench.originations._place = bench.place
    assert (await bench.ask()).ok


async def test_a_trunk_of_another_organisation_is_passed_over_and_keeps_its_attempts(gateway):
    theirs = OutboundFence(OutboundRules(organisation="acme", attempts_per_hour=1))
    bench = Bench(gateway, {"theirs": theirs, "ours": OutboundFence(OutboundRules(organisation="default"))})
    assert (await bench.ask()).ok
    assert bench.placed[0].trunk == "ours"
    theirs.attempt(0.0)  # it was not counted there
    refused = await bench.ask(trunk="theirs")
    assert (refused.reason, refused.error) == (
        Reason.TRUNK_FAILED, "no trunk 'theirs' can place calls now; there are: ours"
    )  # fmt: skip


async def test_a_call_that_found_no_room_is_no_attempt_of_its_trunk(gateway):
    bench = Bench(gateway, {"main": OutboundFence(OutboundRules(attempts_per_hour=1))})
    bench.answer = Termination.of(Reason.AT_CAPACITY, "no RTP port is free")
    for _ in range(3):
        assert (await bench.ask()).reason is Reason.AT_CAPACITY
    bench.answer = None
    assert (await bench.ask()).ok
    assert (await bench.ask()).reason is Reason.TOO_MANY_ATTEMPTS
