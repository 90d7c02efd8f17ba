"""Any order of events whatever: the promises that hold for every leg (hypothesis plays all sides)."""

from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from libs.call_leg.actions import Answer, EndMedia, PublishEnded, SendOffer, SendRelease, StartMedia, StopUplink
from libs.call_leg.leg import Leg, LegConfig, Phase
from libs.call_leg.roster import Gone, Roster
from libs.contracts.commands import Failed, HandOver, HangUp, Mute, Ready
from libs.contracts.termination import Reason, Termination

WORKERS = ("a", "b", "c")
workers = st.sampled_from(WORKERS)
offers = st.integers(0, 30)


class AnyOrder(RuleBasedStateMachine):
    """Offers in flight stay answerable for ever: late replies are part of the game."""

    @initialize(alive=st.sets(workers))
    def ring(self, alive):
        self.now = 100.0
        self.roster = Roster()
        self.roster.link_up(0.0)
        self.draining, self.dead = set(), set(WORKERS) - alive
        for wk in sorted(alive):
            self.beat(wk, False)
        self.leg = Leg(LegConfig("c", max_duration_s=60, seek_limit_s=2), self.roster, lambda: 7)
        self.sent, self.released, self.ends, self.answers = [], set(), 0, 0
        self.owner = None  # whose audio is played
        self.perform(self.leg.start(self.now))

    def beat(self, wk, draining):
        self.roster.heartbeat(wk, self.now, calls=0, capacity=5, draining=draining)
        (self.draining.add if draining else self.draining.discard)(wk)
        self.dead.discard(wk)

    def perform(self, actions):
        assert not (actions and self.ends), "something followed the end"
        for action in actions:
            if isinstance(action, SendOffer):
                assert action.wk not in self.dead | self.draining
                assert all(action.epoch > epoch for _, epoch in self.sent), "epochs strictly increase"
                assert self.owner is None, "an offer while somebody owns the call"
                if self.leg.answered_at is None:
                    assert action.wk not in {wk for wk, _ in self.sent}, "each worker is tried once before the answer"
                self.sent.append((action.wk, action.epoch))
            elif isinstance(action, SendRelease):
                self.released.add((action.wk, action.epoch))
                if self.owner == (action.wk, action.epoch):
                    self.owner = None
            elif isinstance(action, StartMedia):
                assert self.owner is None, "two owners"
                self.owner = (action.wk, action.epoch)
                assert self.owner == self.sent[-1]
                assert self.owner not in self.released
            elif isinstance(action, StopUplink | EndMedia):
                self.owner = None
            elif isinstance(action, Answer):
                self.answers += 1
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
            gone = self.roster.expire(self.now)
        assert gone == ([] if wk in self.dead else [Gone(wk, cause)])
        self.dead.add(wk)
        for each in gone:
            self.perform(self.leg.worker_gone(each, self.now))

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
        assert self.ends == (leg.phase is Phase.ENDED)
        assert self.answers <= 1
        assert (self.owner is not None) == (leg.phase in (Phase.CLAIMED, Phase.TALKING))
        if self.owner:
            assert self.owner == (leg.wk, leg.epoch)
        if leg.phase in (Phase.OFFERING, Phase.CLAIMED, Phase.SEEKING):
            assert leg.deadline() is not None, "a phase that nothing ends"
        if leg.phase is Phase.ENDED:
            assert leg.deadline() is None


AnyOrder.TestCase.settings = settings(max_examples=200, stateful_step_count=30, deadline=None)
TestAnyOrder = AnyOrder.TestCase
