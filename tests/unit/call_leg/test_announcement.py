"""A bridged transfer announces: the target hears the agent, then the caller. Scripts of (time, input) -> actions."""

import asyncio

import pytest

from libs.audio.tone import waiting_tone
from libs.call_leg import actions as do
from libs.call_leg.audio import CallAudio
from libs.call_leg.phase import Phase
from libs.call_leg.transfer import ANNOUNCEMENT_LIMIT_S
from libs.contracts import subjects
from libs.contracts.commands import CommandReply, Failed, HangUp, Mute, SayNow, TakeOver, Transfer
from libs.contracts.frame import AudioFrame, Codec, Flag, pack
from libs.contracts.termination import Reason
from libs.contracts.wire import agent_command_decoder
from tests.support.fake_worker import FakeWorker
from tests.unit.call_leg.at_gateway import until
from tests.unit.call_leg.test_leg import Call, W, reason_of
from tests.unit.call_leg.test_leg_control import TO, course, transfer_ends

TEXT = "Frau Weber möchte drei T-Stücke bestellen."
JOINED = [
    do.JoinTarget(),
    do.PublishTransfer("done", TO, "bridge", 200),
    do.SendRelease("a", 1, Reason.TRANSFERRED),
    do.StopUplink(),
    do.SetFiller(False),
    W,
]


def reached(announcement=TEXT, before=None, **settings):
    """The target has answered; what the leg wants then."""
    call = Call(**settings).talking()
    if before is not None:
        call.command(before)
    call.command(Transfer(target=TO, mode="bridge", announcement=announcement))
    call.leg.transfer_began("bridge")
    call.now += 5
    return call, call.leg.transfer_reached(call.now)


def test_the_target_hears_the_announcement_and_is_joined_when_it_was_said():
    call, actions = reached()
    assert actions == [do.Announce(TEXT)]
    assert call.leg.transfer_reached(call.now) == []
    assert call.wait(ANNOUNCEMENT_LIMIT_S - 1) == []
    assert call.leg.announced(call.now) == JOINED
    assert call.leg.phase is Phase.BRIDGED
    assert call.leg.announced(call.now) == []


def test_without_an_announcement_the_two_are_joined_at_once():
    call, actions = reached(announcement=None)
    assert actions == JOINED
    assert call.leg.announced(call.now) == []


def test_an_endless_announcement_is_cut_and_the_two_are_joined():
    call, _ = reached()
    assert call.leg.deadline() == call.now + ANNOUNCEMENT_LIMIT_S
    assert call.wait(ANNOUNCEMENT_LIMIT_S) == JOINED


def test_a_muted_agent_announces_nothing():
    _, actions = reached(before=Mute(muted=True))
    assert actions == JOINED


def test_a_person_who_took_over_announces_nothing():
    call = Call().talking()
    call.roster.heartbeat("p", call.now, calls=0, capacity=0, draining=False)
    call.command(TakeOver(by="p"))
    call.command(Transfer(target=TO, mode="bridge", announcement=TEXT))
    call.leg.transfer_began("bridge")
    assert call.leg.transfer_reached(call.now)[0] == do.JoinTarget()


def test_without_a_worker_the_two_are_joined_at_once():
    call = Call().talking()
    call.command(Transfer(target=TO, mode="bridge", announcement=TEXT))
    call.leg.transfer_began("bridge")
    call.lose("a")
    assert call.leg.transfer_reached(call.now) == [
        action for action in JOINED if not isinstance(action, do.SendRelease)
    ]


@pytest.mark.parametrize("how", ["dies", "fails"])
def test_a_worker_that_is_lost_while_it_announces_is_not_waited_for(how):
    call, _ = reached()
    actions = call.lose("a") if how == "dies" else call.command(Failed(epoch=1, reason=Reason.MODEL_FAILED))[1]
    assert do.JoinTarget() in actions
    assert course(actions) == [("done", 200)]
    assert not any(isinstance(action, do.SendOffer) for action in actions)
    assert [action.on for action in actions if isinstance(action, do.SetFiller)][-1] is False
    assert call.leg.phase is Phase.BRIDGED
    assert call.leg.announced(call.now) == []


def test_a_target_that_hangs_up_meanwhile_returns_the_caller_to_the_agent():
    call, _ = reached()
    actions = transfer_ends(call, False, None, "the target hung up")
    assert actions[0] == do.HideRest()
    assert course(actions) == [("failed", None)]
    assert call.leg.phase is Phase.TALKING
    assert call.wait(ANNOUNCEMENT_LIMIT_S) == []
    assert call.leg.announced(call.now) == []


@pytest.mark.parametrize("who", ["caller", "operator"])
def test_whoever_ends_the_call_meanwhile_ends_it_for_the_target_too(who):
    call, _ = reached()
    by_caller = who == "caller"
    actions = call.leg.caller_gone(Reason.CALLER_HUNG_UP, call.now) if by_caller else call.command(HangUp())[1]
    assert actions[0] == do.CancelTransfer()
    assert course(actions) == [("failed", None)]
    assert reason_of(actions) is (Reason.CALLER_HUNG_UP if by_caller else Reason.OPERATOR_HUNG_UP)
    assert call.leg.announced(call.now) == []


def test_the_next_transfer_has_no_announcement_of_the_last_one():
    call, _ = reached()
    transfer_ends(call, False)
    call.command(Transfer(target=TO, mode="bridge"))
    call.leg.transfer_began("bridge")
    assert call.leg.transfer_reached(call.now) == JOINED


# -- what was said to whom ------------------------------------------------------------------------------------------


class Said:
    """One call's audio, and frames of its agent: each 20 ms, the last of a response marked."""

    def __init__(self):
        self.audio = CallAudio("default", "gw", "call", lambda *_: True)
        self.audio.start("wk", 1, "paced", 100.0)
        self.seq = 0

    def response(self, frames, *, ends=True):
        for number in range(frames):
            flags = Flag.END_OF_RESPONSE if ends and number == frames - 1 else 0
            frame = AudioFrame(Codec.of_rate(8000), flags, 1, self.seq, self.seq * 160, b"\x01\x10" * 160)
            self.audio.heard_from_worker("wk", pack(frame))
            self.seq += 1


def test_an_agent_is_quiet_when_the_end_of_its_response_was_played():
    said, told = Said(), []
    said.response(2, ends=False)
    said.audio.when_quiet(lambda: told.append("before"))
    said.response(1)
    for _ in range(2):
        said.audio.tick()
    assert told == []
    said.audio.tick()
    assert told == ["before"]
    said.audio.when_quiet(lambda: told.append("announced"), more=1)
    said.audio.tick()
    said.response(2)
    said.audio.tick()
    assert told == ["before"]
    said.audio.tick()
    assert told == ["before", "announced"]


def test_what_was_meant_for_the_target_is_hidden_from_the_caller():
    said, loop = Said(), waiting_tone(8000)
    said.audio.when_quiet(lambda: None, more=1)
    said.audio.hide_announcement(loop)
    assert said.audio.tick() == loop[:320]  # it is only on its way
    said.response(3)
    assert [said.audio.tick() for _ in range(2)] == [loop[320:640], loop[640:960]]
    said.response(1)  # the next one follows at once, and is for the caller
    assert said.audio.tick() == loop[960:1280]
    assert said.audio.playout.played == 3 * 160
    assert said.audio.tick() == b"\x01\x10" * 160
    said.response(1)
    assert said.audio.tick() == b"\x01\x10" * 160


def test_an_announcement_that_was_heard_leaves_nothing_to_hide():
    said = Said()
    said.audio.when_quiet(lambda: None, more=1)
    said.response(1)
    said.audio.tick()
    said.audio.hide_announcement(waiting_tone(8000))
    assert said.audio.tick() is None


def test_an_announcement_that_is_cut_off_is_over():
    said, told = Said(), []
    said.audio.when_quiet(lambda: told.append("over"), more=1)
    said.response(3, ends=False)
    said.audio.tick()
    flush = AudioFrame(Codec.of_rate(8000), Flag.FLUSH, 1, said.seq, 0, b"")
    said.audio.heard_from_worker("wk", pack(flush))
    said.audio.tick()
    assert told == ["over"]


# -- through a real shell -------------------------------------------------------------------------------------------


class Target:
    def __init__(self):
        self.log = []

    def listen(self):
        self.log.append("listen")

    def join(self):
        self.log.append("join")


async def test_the_session_is_told_what_to_announce_and_its_end_joins_the_two(server, gateway):
    async with FakeWorker(server.url) as worker:
        await gateway.knows(worker)
        shell, caller = await gateway.talking()
        offer = worker.offers.get_nowait()
        caller.mode = "bridge"
        assert (await gateway.command(shell, Transfer(target=TO, announcement=TEXT))).ok
        target = Target()
        shell.transfer_reached(target)
        decoder = agent_command_decoder()
        while not isinstance(told := decoder.decode(await worker.told.get()), SayNow):
            pass
        assert (told.text, told.epoch, target.log) == (TEXT, 1, ["listen"])
        shell.dtmf("5")  # the caller's key is recorded, and does not make the agent answer
        worker.says(offer, 0)
        worker.says(offer, 1, end=True)
        await until(lambda: caller.audio.playout.depth == 2)
        caller.audio.tick()
        assert target.log == ["listen"]
        caller.audio.tick()
        await until(lambda: shell.leg.phase is Phase.BRIDGED)
        assert target.log == ["listen", "join"]
        assert (await worker.releases.get()).reason is Reason.TRANSFERRED
        assert worker.told.empty()


async def test_what_the_agent_tells_the_caller_is_no_announcement_and_stays_heard(server, gateway):
    async with FakeWorker(server.url) as worker:
        await gateway.knows(worker)
        shell, caller = await gateway.talking()
        offer = worker.offers.get_nowait()
        caller.mode = "bridge"
        await gateway.command(shell, Transfer(target=TO, announcement=TEXT))
        worker.says(offer, 0)
        worker.says(offer, 1, end=True)
        await until(lambda: caller.audio.playout.depth == 2)
        target = Target()
        shell.transfer_reached(target)
        shell.transfer_ended(False, None, "the target hung up")
        assert [caller.audio.tick() for _ in range(2)] == 2 * [b"\x01\x10" * 160]
        await asyncio.sleep(0)
        assert target.log == []


async def test_a_session_that_cannot_speak_is_not_waited_for(server, gateway):
    async with FakeWorker(server.url) as worker:

        async def refuses(msg):
            if msg.reply:
                await msg.respond(CommandReply(ok=False, error="the model is away").to_json())

        await worker.bus.control.subscribe(subjects.control("*", "*", "agent"), cb=refuses)
        await gateway.knows(worker)
        shell, caller = await gateway.talking()
        caller.mode = "bridge"
        await gateway.command(shell, Transfer(target=TO, announcement=TEXT))
        target = Target()
        shell.transfer_reached(target)
        await until(lambda: shell.leg.phase is Phase.BRIDGED)
        assert target.log == ["listen", "join"]
