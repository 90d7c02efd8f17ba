"""Any order of events whatever: the promises that hold for every leg (hypothesis plays all sides)."""

from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from libs.call_leg.actions import (
    Answer,
    CancelTransfer,
    Dial,
    EndMedia,
    HideRest,
    JoinTarget,
    PublishAnswered,
    PublishEnded,
    PublishTransfer,
    SendOffer,
    SendRelease,
    SetFiller,
    StartMedia,
    StartTransfer,
    StopUplink,
    TakenOver,
)
from libs.call_leg.leg import Leg, LegConfig
from libs.call_leg.phase import OWNED, Phase
from libs.call_leg.roster import Gone, Roster
from libs.contracts.commands import (
    Accept,
    Decline,
    Describe,
    Failed,
    HandOver,
    HangUp,
    Hold,
    Mute,
    Ready,
    Say,
    SendDtmf,
    TakeOver,
    Transfer,
)
from libs.contracts.termination import Reason, Termination

WORKERS = ("a", "b", "c")
PERSON = "p"
workers = st.sampled_from(WORKERS)
offers = st.integers(0, 30)


class AnyOrder(RuleBasedStateMachine):
    """Offers in flight stay answerable for ever: late replies are part of the game."""

    @initialize(
        alive=st.sets(workers),
        outbound=st.booleans(),
        needs_person=st.booleans(),
        delay_s=st.sampled_from([0.0, 0.0, 1.0]),
    )
    def ring(self, alive, outbound, needs_person, delay_s):
        self.begin(alive, outbound, needs_person, delay_s)

    def begin(self, alive, outbound, needs_person, delay_s):
        self.outbound = outbound
        self.dials = self.transfers = 0
        self.filler = False
        self.mode = "refer"
        self.now = 100.0
        self.roster = Roster()
        self.roster.link_up(0.0)
        self.draining, self.dead = set(), set(WORKERS) - alive
        for wk in sorted(alive):
            self.beat(wk, False)
        config = LegConfig("c", max_duration_s=60, seek_limit_s=2, outbound=outbound, ring_timeout_s=30,
                           needs_person=needs_person, answer_delay_s=delay_s)  # fmt: skip
        self.leg = Leg(config, self.roster, lambda: 7)
        self.asked = set()  # since the search began, or began again
        self.sent, self.released, self.ends, self.answers = [], set(), 0, 0
        self.owner = None  # whose audio is played
        self.perform(self.leg.start(self.now))

    def beat(self, wk, draining):
        self.roster.heartbeat(wk, self.now, calls=0, capacity=5, draining=draining)
        (self.draining.add if draining else self.draining.discard)(wk)
        self.dead.discard(wk)

    def perform(self, actions):  # noqa: PLR0912  one flat dispatch
        assert not (actions and self.ends), "something followed the end"
        for action in actions:
            if isinstance(action, SendOffer):
                assert action.wk not in self.dead | self.draining
                assert all(action.epoch > epoch for _, epoch in self.sent), "epochs strictly increase"
                assert self.owner is None, "an offer while somebody owns the call"
                assert not self.transfers or not self.leg._parked, "offered while a transfer decides"
                if self.leg.answered_at is None and not self.dials:
                    assert action.wk not in self.asked, "each worker is tried once, until all were and some were silent"
                self.asked.add(action.wk)
                self.sent.append((action.wk, action.epoch))
            elif isinstance(action, SendRelease):
                self.released.add((action.wk, action.epoch))
                if self.owner == (action.wk, action.epoch):
                    self.owner = None
            elif isinstance(action, StartMedia):
                assert self.owner is None, "two owners"
                self.owner = (action.wk, action.epoch)
                assert self.owner == self.sent[-1] or self.leg.is_person
                assert self.owner not in self.released
            elif isinstance(action, StopUplink | EndMedia):
                self.owner = None
            elif isinstance(action, TakenOver):
                assert all(action.epoch > epoch for _, epoch in self.sent), "a person has an epoch of their own"
                self.sent.append((action.by, action.epoch))
            elif isinstance(action, Answer | PublishAnswered):
                assert isinstance(action, PublishAnswered) == self.outbound
                self.answers += 1
            elif isinstance(action, Dial):
                assert self.outbound
                assert self.owner is not None, "the agent comes first"
                self.dials += 1
            elif isinstance(action, SetFiller):
                self.filler = action.on
            elif isinstance(action, StartTransfer):
                assert self.transfers == 0, "one at a time"
                self.transfers += 1
                self.perform(self.leg.transfer_began(self.mode))
            elif isinstance(action, CancelTransfer | JoinTarget | HideRest):
                assert self.transfers == 1
            elif isinstance(action, PublishTransfer) and action.state in ("done", "failed"):
                self.transfers -= 1
            elif isinstance(action, PublishEnded):
                self.ends += 1

    def releases_only(self, actions):
        """After the end a late acceptance is still given back, nothing else happens."""
        if self.ends:
            assert all(isinstance(action, SendRelease) for action in actions)
            self.released.update((action.wk, action.epoch) for action in actions)
        else:
            self.perform(actions)

    @rule(n=offers, accepted=st.booleans())
    def reply(self, n, accepted):
        if self.sent:
            wk, epoch = self.sent[-1 - n % min(3, len(self.sent))]
            actions = self.leg.offer_answered(wk, epoch, accepted, "", self.now)
            self.releases_only(actions)
            if accepted:
                assert self.owner == (wk, epoch) or (wk, epoch) in self.released, "an acceptance left hanging"

    @rule(n=offers)
    def no_reply(self, n):
        if self.sent:
            wk, epoch = self.sent[-1 - n % len(self.sent)]
            self.perform(self.leg.offer_failed(wk, epoch, "time-out", self.now))

    @rule(
        n=offers,
        make=st.sampled_from([Ready, Ready, HandOver, HangUp, lambda epoch: Mute(epoch=epoch, muted=True),
                              lambda epoch: Failed(epoch=epoch, reason=Reason.MODEL_FAILED)]),
    )  # fmt: skip
    def worker_commands(self, n, make):
        if self.sent:
            wk, epoch = self.sent[-1 - n % len(self.sent)]
            fenced = (wk, epoch) in self.released
            reply, actions = self.leg.command(make(epoch=epoch), self.now)
            self.perform(actions)
            assert not (fenced and (reply.ok or actions)), "a fenced worker was obeyed"

    @rule(seconds=st.sampled_from([0.01, 0.08, 0.25, 1.0, 5.0, 40.0]))
    def time_passes(self, seconds):
        self.now += seconds
        for wk in set(WORKERS) - self.dead:
            self.roster.heartbeat(wk, self.now, calls=0, capacity=5, draining=wk in self.draining)
        if self.roster.is_alive(PERSON):
            self.roster.heartbeat(PERSON, self.now, calls=0, capacity=0, draining=False)
        self.perform(self.leg.expire(self.now))

    @rule(wk=workers, cause=st.sampled_from(["gone", "silent"]))
    def worker_dies(self, wk, cause):
        if cause == "gone":
            gone = self.roster.disconnected(f"{wk}-media", self.now) + self.roster.disconnected(
                f"{wk}-control", self.now
            )
        else:
            for other in set(WORKERS) - self.dead - {wk}:
                self.roster.heartbeat(other, self.now + 0.4, calls=0, capacity=5, draining=other in self.draining)
            self.now += 0.4
            if self.roster.is_alive(PERSON):
                self.roster.heartbeat(PERSON, self.now, calls=0, capacity=0, draining=False)
            gone = self.roster.expire(self.now)
        assert gone == ([] if wk in self.dead else [Gone(wk, cause)])
        self.dead.add(wk)
        for each in gone:
            self.perform(self.leg.worker_gone(each, self.now))

    @rule(
        command=st.sampled_from([Accept(), Accept(), Hold(held=True), Hold(held=False), Say(text="x"),
                                 SendDtmf(digits="1"), TakeOver(by=PERSON), TakeOver(by=PERSON),
                                 Mute(muted=True), Mute(muted=False), Describe()]),
    )  # fmt: skip
    def people_command(self, command):
        if isinstance(command, TakeOver):
            self.roster.heartbeat(PERSON, self.now, calls=0, capacity=0, draining=False)
        self.perform(self.leg.command(command, self.now)[1])

    @precondition(lambda self: self.leg.phase is Phase.WAITING)
    @rule()
    def people_decline(self):
        self.perform(self.leg.command(Decline(), self.now)[1])
        assert self.ends == 1

    @rule()
    def person_dies(self):
        for gone in self.roster.disconnected("p-media", self.now) + self.roster.disconnected("p-control", self.now):
            self.perform(self.leg.worker_gone(gone, self.now))

    @precondition(lambda self: self.outbound)
    @rule(status=st.sampled_from([180, 183]))
    def it_rings(self, status):
        self.perform(self.leg.ringing(status, False))

    @precondition(lambda self: self.outbound and self.dials)
    @rule()
    def the_callee_picks_up(self):
        self.perform(self.leg.answered("PCMA", 8000, self.now))
        assert self.ends or self.leg.answered_at is not None

    @rule(mode=st.sampled_from(["refer", "bridge", "dial"]), announcement=st.sampled_from([None, "It is for you."]))
    def transfer(self, mode, announcement):
        self.mode = mode
        before = self.transfers
        reply, actions = self.leg.command(Transfer(target="+4930", announcement=announcement), self.now)
        self.perform(actions)
        assert not (reply.ok and before)

    @precondition(lambda self: self.transfers)
    @rule(ok=st.booleans(), progress=st.booleans())
    def the_target_decides(self, ok, progress):
        if progress:
            self.perform(self.leg.transfer_progress(180))
            return
        self.perform(self.leg.transfer_ended(ok, None, self.now))
        assert self.transfers == 0
        if ok:
            assert self.leg.phase is (Phase.BRIDGED if self.mode_of_last() == "bridge" else Phase.ENDED)

    @precondition(lambda self: self.transfers and self.leg.transfer.mode == "bridge")
    @rule()
    def the_target_answers(self):
        self.perform(self.leg.transfer_reached(self.now))
        assert self.leg.transfer.is_announcing or self.leg.phase is Phase.BRIDGED

    @rule()
    def the_announcement_was_heard(self):
        was = self.leg.transfer.is_announcing
        self.perform(self.leg.announced(self.now))
        assert not was or self.leg.phase is Phase.BRIDGED

    def mode_of_last(self):
        return self.leg.transfer.mode

    @rule(wk=workers, draining=st.booleans())
    def worker_beats(self, wk, draining):
        self.beat(wk, draining)

    @precondition(lambda self: len(self.sent) > 2)
    @rule(how=st.sampled_from(["caller", "operator", "gateway"]))
    def somebody_ends_it(self, how):
        if how == "caller":
            self.perform(self.leg.caller_gone(Reason.CALLER_HUNG_UP, self.now))
        elif how == "operator":
            self.perform(self.leg.command(HangUp(), self.now)[1])
        else:
            self.perform(self.leg.end(Termination.of(Reason.DRAINING), self.now))
        assert self.ends == 1

    @invariant()
    def promises(self):
        if not hasattr(self, "leg"):
            return
        leg = self.leg
        if leg.phase is Phase.SEEKING:
            self.asked.clear()
        assert self.ends == (leg.phase is Phase.ENDED)
        assert self.answers <= 1
        assert self.dials <= 1
        assert self.ends == 0 or self.transfers == 0, "a transfer without an end"
        assert (self.owner is not None) == (leg.phase in OWNED)
        if leg.answered_at is not None and leg.phase is not Phase.ENDED:
            talking = leg.phase in (Phase.TALKING, Phase.BRIDGED) and not leg.held_by_us
            assert self.filler != talking, "filler when nobody can speak, and only then"
        if self.owner:
            assert self.owner == (leg.wk, leg.epoch)
        assert not leg.is_person or leg.wk == PERSON
        assert not (leg.is_person and leg.muted), "only agents are muted"
        if leg.phase in (Phase.WAITING, Phase.OFFERING, Phase.CLAIMED, Phase.RINGING, Phase.SEEKING):
            assert leg.deadline() is not None, "a phase that nothing ends"
        if leg.phase is Phase.ENDED:
            assert leg.deadline() is None


class InACall(AnyOrder):
    """The same from the answer on."""

    @initialize(outbound=st.booleans())
    def ring(self, outbound):
        self.begin({"a", "b"}, outbound, False, 0.0)
        self.perform(self.leg.offer_answered(*self.sent[-1], True, "", self.now))
        self.perform(self.leg.command(Ready(epoch=1), self.now)[1])
        if outbound:
            self.perform(self.leg.answered("PCMA", 8000, self.now))
        assert self.leg.phase is Phase.TALKING


AnyOrder.TestCase.settings = settings(max_examples=200, stateful_step_count=30, deadline=None)
TestAnyOrder = AnyOrder.TestCase
InACall.TestCase.settings = settings(max_examples=200, stateful_step_count=30, deadline=None)
TestInACall = InACall.TestCase
