"""An operator takes a call over at a page: the real leg of a browser call, and a leg of 8 kHz by the contract."""

import asyncio

import aiohttp

from libs.audio.compare import best_correlation
from libs.audio.tone import tone
from libs.contracts import subjects
from libs.contracts.commands import CommandReply, TakeOver
from libs.contracts.events import CallEnded
from libs.contracts.frame import Codec
from libs.contracts.offer import CallState, Release
from libs.contracts.termination import Reason
from libs.contracts.wire import leg_command_decoder
from tests.support.fake_leg import FakeLeg
from tests.unit.browser_gateway.conftest import AGENT, world

VOICE = tone(440, 600, 16000)
OTHER_VOICE = tone(700, 600, 16000)


async def operator(here, call: str):
    reply = await here.token(kind="take_over", call=call)
    return await here.page(reply.data["token"], "/operator")


async def taken(here):
    """A caller's page, its agent, the offer, and the page of the operator who has the call now."""
    worker, caller, offer = await here.talking()
    person = await operator(here, offer.call)
    await person.message("answered")
    return worker, caller, offer, person


async def test_operator_and_caller_hear_each_other_and_the_agent_is_released(server):
    async with world(server) as here:
        worker, caller, offer, person = await taken(here)
        released = await worker.releases.get()
        assert (released.call, released.epoch) == (offer.call, offer.epoch)
        await asyncio.gather(caller.speak(VOICE), person.speak(OTHER_VOICE))
        await caller.until(lambda: len(caller.heard) >= len(VOICE) * 3 // 4)
        await person.until(lambda: len(person.heard) >= len(VOICE) * 3 // 4)
        assert best_correlation(OTHER_VOICE[: len(VOICE) // 4], bytes(caller.heard))[0] > 0.95
        assert best_correlation(VOICE[: len(VOICE) // 4], bytes(person.heard))[0] > 0.95


async def test_the_operator_hands_the_call_back_to_an_agent(server):
    async with world(server) as here:
        worker, _, offer, person = await taken(here)
        await person.say(type="hand_over")
        again = await asyncio.wait_for(_offer(worker, offer.epoch), 5)
        assert again.call == offer.call
        end = await person.end()
        assert (end["termination"], end["detail"]) == (None, "another has the call now")
        assert not here.of(CallEnded)


async def _offer(worker, after_epoch):
    while (offer := await worker.offers.get()).epoch <= after_epoch:
        pass
    return offer


async def test_an_operators_page_that_closes_gives_the_call_back(server):
    async with world(server) as here:
        worker, _, offer, person = await taken(here)
        await person.leave()
        assert (await asyncio.wait_for(_offer(worker, offer.epoch), 5)).call == offer.call
        await here.until(lambda: not here.gateway.taken)
        assert not here.of(CallEnded)


async def test_a_drain_gives_the_calls_back(server):
    async with world(server) as here:
        worker, _, offer, person = await taken(here)
        await here.gateway.give_everything_back()
        assert (await asyncio.wait_for(_offer(worker, offer.epoch), 5)).call == offer.call
        await person.end()


async def test_the_operator_hangs_up_for_everybody(server):
    async with world(server) as here:
        _, caller, _, person = await taken(here)
        await person.say(type="hang_up")
        assert (await caller.end())["termination"]["reason"] == "operator_hung_up"
        assert (await person.end())["termination"]["reason"] == "operator_hung_up"
        assert (await here.event(CallEnded)).termination.reason is Reason.OPERATOR_HUNG_UP


async def test_the_operator_hears_that_the_caller_has_gone(server):
    async with world(server) as here:
        _, caller, _, person = await taken(here)
        await caller.leave()
        assert (await person.end())["termination"]["reason"] == "caller_hung_up"


async def test_what_the_leg_refuses_is_told_and_the_call_goes_on(server):
    async with world(server) as here:
        _, _, _, person = await taken(here)
        await person.say(type="dtmf", digit="5")
        assert (await person.message("refused"))["error"] == "'send_dtmf' is not possible on a call from a browser"
        await person.say(type="transfer", target="+4930123456")
        assert (await person.message("refused", 2))["what"] == "transfer"
        assert not here.of(CallEnded)


async def test_a_call_that_does_not_exist_cannot_be_taken_over(server):
    async with world(server) as here:
        await here.worker()
        person = await operator(here, "01J0NOBODY")
        assert (await person.end())["detail"] == "there is no such call"
        assert person.closed[0] == 4409


async def test_a_token_for_one_call_takes_no_other_over(server):
    async with world(server) as here:
        _, _, offer = await here.talking()
        wrong_org = await here.token("other", kind="take_over", call=offer.call)
        person = await here.page(wrong_org.data["token"], "/operator")
        assert (await person.end())["detail"] == "there is no such call"
        call_token = await here.token(kind="call", to="bestellung")
        person = await here.page(call_token.data["token"], "/operator")
        await person.until(lambda: person.closed is not None)
        assert person.closed[0] == 4401


class TelephoneLeg(FakeLeg):
    """Agrees to a take-over of its call at 8 kHz, as the contract says."""

    async def _on_command(self, msg) -> None:
        command = leg_command_decoder().decode(msg.data)
        details = {}
        if isinstance(command, TakeOver):
            self.wk, self.epoch = command.by, self.epoch + 1
            details = {"epoch": self.epoch, "gw": self.gw, "codec": "PCMA", "rate_hz": 8000}
        self.commands.append(command)
        await msg.respond(CommandReply(ok=True, details=details).to_json())
        self._changed.set()


async def test_a_telephone_call_is_converted_both_ways(server):
    async with world(server) as here:
        leg = TelephoneLeg(here.admin.control, AGENT, call="01J0TELEPHONE")
        leg.state = CallState(codec="PCMA", rate_hz=8000)
        await leg.start()
        person = await operator(here, leg.call)
        await person.message("answered")
        assert leg.wk.startswith("op-")

        async def caller_speaks():
            await leg.run(600, tone(440, 600, 8000), tick_s=0.02)

        await asyncio.gather(caller_speaks(), person.speak(OTHER_VOICE))
        await person.until(lambda: len(person.heard) >= len(VOICE) * 2 // 3)
        heard = b"".join(frame.payload for frame in leg.frames)
        assert {frame.codec for frame in leg.frames} == {Codec.PCM16_8000}
        assert [frame.timestamp for frame in leg.frames] == list(range(0, 160 * len(leg.frames), 160))
        assert best_correlation(tone(700, 200, 8000), heard)[0] > 0.95
        assert best_correlation(VOICE[: len(VOICE) // 4], bytes(person.heard))[0] > 0.95
        await person.say(type="dtmf", digit="5")
        assert (await person.message("done"))["what"] == "dtmf"
        assert leg.commanded("send_dtmf")[0].epoch == leg.epoch
        release = Release(call=leg.call, epoch=leg.epoch, reason=Reason.CALLER_HUNG_UP)
        await here.admin.control.publish(subjects.release(leg.wk), release.to_json())
        assert (await person.end())["termination"]["reason"] == "caller_hung_up"
        await leg.stop()


async def test_a_call_whose_gateway_died_is_over_for_the_operator_too(server, monkeypatch):
    monkeypatch.setattr("services.browser_gateway.takeover.UPLINK_SILENT_S", 0.3)
    async with world(server) as here:
        leg = TelephoneLeg(here.admin.control, AGENT, call="01J0SILENT")
        await leg.start()
        person = await operator(here, leg.call)
        assert (await person.end())["detail"] == "the call's gateway is silent"
        await leg.stop()


async def test_strangers_are_told_nothing_on_the_operators_path(server):
    async with world(server) as here, here.http.ws_connect(here.base + "/operator") as socket:
        await socket.send_json({"type": "hello", "token": "x.y"})
        closing = await socket.receive()
        assert (closing.type, closing.data, closing.extra) == (aiohttp.WSMsgType.CLOSE, 4401, "not_accepted")
