"""The arithmetic of places: several gateways' memories against one document, whatever happens in between."""

from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from libs.call_leg.admission import Limits
from libs.call_leg.slot_document import GONE_S, MINUTE_MS, Ask, OrgPlaces, Presence, Section, SlotDocument, Verdict

LIMIT, PER_MINUTE = 4, 7
LIMITS = Limits(LIMIT, PER_MINUTE)
gateways = st.sampled_from(["gw-a", "gw-b", "gw-c"])


class Places(RuleBasedStateMachine):
    """Each step is one compare-and-set that succeeded; the model counts what was let in."""

    def __init__(self):
        super().__init__()
        self.memories = {gw: OrgPlaces(gw) for gw in ("gw-a", "gw-b", "gw-c")}
        self.document = SlotDocument()
        self.let_in = []
        self.dead = set()
        self.now_ms = 1_000_000
        self.calls = 0

    def write(self, gw, asks=()):
        self.document, verdicts = self.memories[gw].settle(self.document, asks, self.dead, self.now_ms)
        assert SlotDocument.model_validate_json(self.document.to_json()) == self.document
        return verdicts

    @rule(gw=gateways, number=st.integers(1, 6))
    def take(self, gw, number):
        asks = [Ask(f"c{self.calls + n}", LIMITS) for n in range(number)]
        self.calls += number
        live = sum(len(memory.held) for memory in self.memories.values())
        recent = sum(at > self.now_ms - MINUTE_MS for at in self.let_in)
        room = min(LIMIT - live, PER_MINUTE - recent)
        verdicts = self.write(gw, asks)
        taken = [ask.call for ask, verdict in zip(asks, verdicts, strict=True) if verdict is Verdict.TAKEN]
        for call in taken:
            self.memories[gw].keep(call, self.now_ms)
        self.let_in += [self.now_ms] * len(taken)
        assert self.memories[gw].is_in(self.document)
        if all(memory.is_in(self.document) for memory in self.memories.values()):
            assert len(taken) == max(0, min(number, room))

    @rule(gw=gateways, write=st.booleans())
    def free_one(self, gw, write):
        if self.memories[gw].held:
            assert self.memories[gw].free(next(iter(self.memories[gw].held)))
        if write:
            self.write(gw)

    @rule(gw=gateways)
    def dies(self, gw):
        """Its calls are lost; another process takes its place under another name in life, the same one here."""
        self.memories[gw] = OrgPlaces(gw)
        self.dead = {gw}
        self.write(next(name for name in self.memories if name != gw))
        self.dead = set()
        if gw in self.document.sections:
            assert self.document.sections[gw].calls == ()
            kept = self.document.sections[gw].attempts
            self.memories[gw].attempts = list(kept)  # the model goes on counting them

    @rule(seconds=st.integers(1, 70))
    def time_passes(self, seconds):
        self.now_ms += seconds * 1000

    @rule()
    def bucket_is_lost_and_all_write_again(self):
        self.document = SlotDocument()
        for gw in self.memories:
            self.write(gw)

    @invariant()
    def the_limits_hold(self):
        assert sum(len(memory.held) for memory in self.memories.values()) <= LIMIT
        assert sum(at > self.now_ms - MINUTE_MS for at in self.let_in) <= PER_MINUTE


TestPlaces = Places.TestCase
TestPlaces.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def test_an_idle_organisation_leaves_an_empty_document():
    memory = OrgPlaces("gw")
    document, _ = memory.settle(SlotDocument(), [Ask("a", LIMITS)], (), 0)
    memory.keep("a", 0)
    assert memory.free("a")
    assert not memory.free("a")
    assert memory.settle(document, [], (), MINUTE_MS)[0] == SlotDocument()


def test_a_refusal_changes_nothing():
    memory = OrgPlaces("gw")
    found = SlotDocument(sections={"other": Section(calls=("x",), attempts=(1,))})
    assert memory.settle(found, [Ask("a", Limits(1))], (), 5) == (found, [Verdict.FULL])
    assert memory.settle(found, [Ask("a", Limits(None, 1))], (), 5) == (found, [Verdict.TOO_MANY])


def test_a_clock_that_is_far_ahead_does_not_block_an_organisation():
    found = SlotDocument(sections={"other": Section(attempts=(10 * MINUTE_MS,) * 5)})
    _, verdicts = OrgPlaces("gw").settle(found, [Ask("a", Limits(None, 1))], (), 0)
    assert verdicts == [Verdict.TAKEN]


def test_silence_is_evidence_on_a_sound_link_only():
    presence = Presence()
    presence.heard("gw", 0)
    assert not presence.is_gone("gw", 100)  # our own link was never sound
    presence.checked(True, 100)
    assert not presence.is_gone("gw", 100 + GONE_S)
    assert presence.is_gone("gw", 100.1 + GONE_S)
    assert presence.is_gone("never-heard", 100.1 + GONE_S)
    presence.checked(False, 104)
    presence.checked(True, 105)
    assert not presence.is_gone("gw", 105 + GONE_S)
    presence.heard("gw", 108)
    assert not presence.is_gone("gw", 110)
    presence.checked(True, 1000)
    assert presence.is_gone("gw", 1000)  # forgotten, which changes nothing
