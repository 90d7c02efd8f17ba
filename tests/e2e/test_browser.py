"""The browser gateway's page in a headless Chromium with a fake microphone, through every part of callbus.

The microphone plays a file over and over: silence, then speech. What the page hands to its loudspeaker is recorded
in the page itself, behind the jitter buffer.
"""

from __future__ import annotations

import asyncio
import base64
import os
import shutil
import signal
from collections.abc import AsyncIterator
from statistics import median

import numpy as np
import pytest
import pytest_asyncio

from cli import checkout
from libs.audio.compare import best_correlation
from libs.audio.resample import Resampler
from libs.audio.tone import tone
from libs.audio.wav import read_wav, write_wav
from libs.contracts import subjects
from libs.contracts.agent import AgentConfig
from libs.contracts.commands import Describe, HangUp
from libs.contracts.config import RouteConfig
from libs.contracts.events import AgentTurn, CallEnded, CallOffered, DtmfReceived
from libs.contracts.frame import unpack
from libs.contracts.rpc import RpcReply, RpcRequest
from libs.contracts.termination import Reason
from libs.softphone.phone import Softphone
from tests.support.platform import ECHO_AGENT, ECHO_ROUTE, EventFeed, Platform, platform

pytestmark = [pytest.mark.peer, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]

CLIP = checkout.ROOT / "services" / "rehearsal" / "clips" / "caller" / "041bbc628576.wav"
RATE_HZ = 16_000
SILENCE_S = 2
SECTION_BYTES = 2 * RATE_HZ
WAIT_MS = 15_000

TALKER = AgentConfig(
    name="talker", backend="scripted", greeting="Guten Tag.",
    backend_options={"mode": "talk", "say": [["text:Ich rede lange.", "tone:440:20000"], "silence:100"]},
)  # fmt: skip
TALKER_ROUTE = RouteConfig(name="talker", match=("talker",), agent="talker")

RECORD = """() => {
  const { context, speaker } = window.callbus;
  const tape = context.createScriptProcessor(2048, 1, 1);
  window.tape = [];
  tape.onaudioprocess = (event) => window.tape.push(Array.from(event.inputBuffer.getChannelData(0)));
  speaker.connect(tape);
  tape.connect(context.destination);
  return context.sampleRate;
}"""
TAPE = """() => {
  const all = new Float32Array(window.tape.flat());
  let text = "";
  const bytes = new Uint8Array(all.buffer);
  for (let at = 0; at < bytes.length; at += 8192) text += String.fromCharCode(...bytes.subarray(at, at + 8192));
  return btoa(text);
}"""


def chromium() -> str:
    """Its path; skips the tests without it, and fails them in CI, as with every other peer."""
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        reason = "chromium is not installed (Debian: apt install chromium)"
        if os.environ.get("CI") == "true" or os.environ.get("CALLBUS_REQUIRE_PEERS") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    return found


def speech(rate_hz: int) -> bytes:
    wav = read_wav(CLIP.read_bytes())
    return Resampler(wav.rate_hz, rate_hz).process(wav.pcm)


def likeness(heard: bytes) -> float:
    """How much what was heard resembles what the microphone said, by the median over sections of a second."""
    said = speech(RATE_HZ)
    sections = [said[at : at + SECTION_BYTES] for at in range(0, len(said) - SECTION_BYTES, SECTION_BYTES)]
    return median(best_correlation(section, heard)[0] for section in sections)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running() -> AsyncIterator[Platform]:
    chromium()
    documents = [ECHO_AGENT, ECHO_ROUTE, TALKER, TALKER_ROUTE]
    async with platform(documents=documents, browser=True) as started:
        yield started


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser(tmp_path_factory):
    playwright = pytest.importorskip("playwright.async_api")
    microphone = tmp_path_factory.mktemp("microphone") / "speech.wav"
    pause = bytes(2 * 48_000 * SILENCE_S)
    microphone.write_bytes(write_wav(pause + speech(48_000) + bytes(48_000), 48_000))
    arguments = [
        "--no-sandbox", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream",
        f"--use-file-for-fake-audio-capture={microphone}", "--autoplay-policy=no-user-gesture-required",
    ]  # fmt: skip
    async with playwright.async_playwright() as driver:
        started = await driver.chromium.launch(executable_path=chromium(), args=arguments)
        try:
            yield started
        finally:
            await started.close()


@pytest_asyncio.fixture(loop_scope="module")
async def page(running, browser):
    context = await browser.new_context(permissions=["microphone"], locale="de-DE")
    opened = await context.new_page()
    opened.complaints = []
    opened.on("console", lambda message: opened.complaints.append(message.text) if message.type == "error" else None)
    opened.on("pageerror", lambda error: opened.complaints.append(str(error)))
    await opened.goto(running.programs["browser_gateway"].where)
    await opened.locator("#processing").uncheck()  # echo cancellation would cancel the echo
    yield opened
    await context.close()
    assert opened.complaints == []


@pytest_asyncio.fixture(loop_scope="module")
async def feed(running) -> AsyncIterator[EventFeed]:
    async with running.events() as following:
        yield following


async def in_state(page, state: str) -> None:
    await page.locator(f"#state[data-state='{state}']").wait_for(timeout=WAIT_MS)


async def until(page, expression: str) -> None:
    """Wait until it is true in the page, whose policy forbids Playwright's own way of waiting (it evaluates text)."""
    async with asyncio.timeout(WAIT_MS / 1000):
        while not await page.evaluate(expression):  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def call(page, to: str) -> str:
    """Call it; the call's id."""
    await page.locator("#to").fill(to)
    await page.locator("#call").click()
    await in_state(page, "talking")
    return await page.evaluate("window.callbus.id")


async def end_of(feed: EventFeed, call_id: str) -> CallEnded:
    async with asyncio.timeout(10):
        while not feed.of(CallEnded, call_id):  # noqa: ASYNC110  the feed is polled everywhere
            await asyncio.sleep(0.02)
    return feed.of(CallEnded, call_id)[0]


async def taped(page) -> bytes:
    floats = np.frombuffer(base64.b64decode(await page.evaluate(TAPE)), "<f4")
    return np.rint(np.clip(floats, -1, 1) * 32767).astype("<i2").tobytes()


async def test_what_the_microphone_says_is_on_the_bus_and_its_echo_at_the_ear(running, page, feed):
    heard_on_bus = bytearray()

    async def take(msg) -> None:
        heard_on_bus.extend(unpack(msg.data).payload)

    subscription = await running.client.subscribe(subjects.audio("*", "*", "*", "*", "up"), cb=take)
    call_id = await call(page, "echo")
    assert await page.evaluate(RECORD) == RATE_HZ
    await asyncio.sleep(SILENCE_S + 5 + 4)  # one whole round of the microphone's file, wherever it stands
    heard = await taped(page)
    figures = await page.evaluate("window.callbus.figures")
    await page.locator("#hang-up").click()
    await in_state(page, "ended")
    await subscription.unsubscribe()
    print(f"likeness on the bus {likeness(bytes(heard_on_bus)):.3f}, at the ear {likeness(heard):.3f}; {figures}")
    assert likeness(bytes(heard_on_bus)) > 0.9
    assert likeness(heard) > 0.8  # clocks are not one; a frame may be trimmed or made up on a busy machine
    ended = await end_of(feed, call_id)
    assert ended.termination.reason is Reason.CALLER_HUNG_UP
    assert ended.media.dn_received == ended.media.dn_control + ended.media.dn_played + ended.media.dn_trimmed + (
        ended.media.dn_flushed + ended.media.dn_discarded + ended.media.dn_waiting
    )
    assert "aufgelegt" in await page.locator("#state").inner_text()


async def test_a_browser_that_has_no_context_at_16_khz_is_heard_as_well(running, page, feed):
    await page.add_init_script(
        "const Real = AudioContext; window.AudioContext = class extends Real {"
        " constructor(wanted) { super({ ...wanted, sampleRate: 48000 }); } };"
    )
    await page.reload()
    call_id = await call(page, "echo")
    assert await page.evaluate(RECORD) == 48_000
    await asyncio.sleep(SILENCE_S + 5 + 4)
    heard = Resampler(48_000, RATE_HZ).process(await taped(page))
    await page.locator("#hang-up").click()
    await end_of(feed, call_id)
    print(f"likeness at the ear {likeness(heard):.3f}")
    assert likeness(heard) > 0.8


async def test_who_interrupts_the_agent_silences_the_page_and_the_agent_knows_what_was_heard(running, page, feed):
    call_id = await call(page, "talker")
    await until(page, "window.callbus.flushes >= 1")
    turn = (await feed.wait_for(AgentTurn))[0]
    await page.locator("#hang-up").click()
    assert (turn.call, turn.interrupted) == (call_id, True)
    assert 0 < turn.heard_ms < 15_000
    assert "Ich rede lange." in await page.locator("#transcript").inner_text()
    await end_of(feed, call_id)


async def test_keys_of_the_page_reach_the_call_and_the_agent_can_hang_up(running, page, feed):
    call_id = await call(page, "echo")
    await page.locator("#keys").get_by_text("5", exact=True).click()
    assert (await feed.wait_for(DtmfReceived))[0].digit == "5"
    epoch = (await running.tell(call_id, Describe())).details["epoch"]
    assert (await running.tell(call_id, HangUp(epoch=epoch, reason=Reason.AGENT_HUNG_UP))).ok
    await in_state(page, "ended")
    assert (await end_of(feed, call_id)).termination.reason is Reason.AGENT_HUNG_UP
    assert await page.locator("#call").is_enabled()


async def test_leaving_the_page_by_reload_ends_the_call_once(running, page, feed):
    call_id = await call(page, "echo")
    await page.reload()
    assert (await end_of(feed, call_id)).termination.reason is Reason.CALLER_HUNG_UP
    await asyncio.sleep(0.3)
    assert len(feed.of(CallEnded, call_id)) == 1


async def test_chosen_devices_are_used_and_remembered(running, page, feed):
    call_id = await call(page, "echo")  # labels and ids are known from here on
    for box in ("#microphone", "#speaker"):
        assert await page.locator(f"{box} option").count() >= 3, box
    microphone, speaker = [
        await page.locator(f"{box} option").last.get_attribute("value") for box in ("#microphone", "#speaker")
    ]
    await page.locator("#microphone").select_option(microphone)
    await page.locator("#speaker").select_option(speaker)
    used = "window.callbus.stream.getAudioTracks()[0].getSettings().deviceId"
    await until(page, f"{used} === {microphone!r}")
    await until(page, f"window.callbus.context.sinkId === {speaker!r}")
    await page.locator("#hang-up").click()
    await end_of(feed, call_id)
    await page.reload()
    again = await call(page, "echo")
    assert await page.evaluate(used) == microphone
    assert await page.evaluate("window.callbus.context.sinkId") == speaker
    await page.locator("#hang-up").click()
    await end_of(feed, again)


async def test_mute_silences_the_caller(running, page, feed):
    call_id = await call(page, "echo")
    await page.locator("#mute").click()
    assert await page.evaluate("window.callbus.muted")
    await asyncio.sleep(0.3)
    frames = []

    async def take(msg) -> None:
        frames.append(unpack(msg.data).payload)

    subscription = await running.client.subscribe(subjects.audio("*", "*", "*", call_id, "up"), cb=take)
    await asyncio.sleep(1)
    await subscription.unsubscribe()
    assert len(frames) > 30
    assert not any(map(any, frames))
    await page.locator("#hang-up").click()
    await end_of(feed, call_id)


async def test_an_operator_takes_a_call_over_from_a_link_and_gives_it_back(running, browser, page, feed):
    call_id = await call(page, "echo")
    operator = await open_take_over(running, browser, call_id)
    assert "take_over" not in operator.url
    assert await operator.locator("#call").inner_text() == "Take the call over"
    await operator.locator("#call").click()
    await in_state(operator, "talking")
    owner = (await running.tell(call_id, Describe())).details
    assert owner["is_person"]
    await operator.locator("#hand-over").click()
    await in_state(operator, "ended")
    assert "in other hands" in await operator.locator("#state").inner_text()
    await until_owner_is(running, call_id, person=False)
    await operator.locator("#call").click()  # the token was for one use
    await in_state(operator, "idle")
    assert "used before" in await operator.locator("#problem").inner_text()
    await operator.context.close()
    await page.locator("#hang-up").click()
    await end_of(feed, call_id)


async def open_take_over(running: Platform, browser, call_id: str):
    """A page that is about to take this call over, from the link that the bus gives."""
    request = RpcRequest(parameters={"kind": "take_over", "call": call_id})
    reply = await running.client.request(subjects.rpc("browser_gateway", "token"), request.to_json(), timeout=5)
    url = RpcReply.model_validate_json(reply.data).data["url"].replace("localhost", "127.0.0.1")
    context = await browser.new_context(permissions=["microphone"], locale="en-US")
    operator = await context.new_page()
    await operator.goto(url)
    await operator.locator("#processing").uncheck()
    return operator


async def until_owner_is(running: Platform, call_id: str, *, person: bool) -> None:
    async with asyncio.timeout(10):
        while (await running.tell(call_id, Describe())).details["is_person"] is not person:  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def test_who_hangs_up_while_the_browser_asks_for_the_microphone_is_not_listened_to(running, page):
    await page.evaluate("""() => {
      const devices = navigator.mediaDevices, ask = devices.getUserMedia.bind(devices);
      window.granted = [];
      devices.getUserMedia = async (wanted) => {
        await new Promise((resolve) => { window.grant = resolve; });
        const stream = await ask(wanted);
        window.granted.push(stream);
        return stream;
      };
    }""")
    await page.locator("#call").click()
    await until(page, "window.grant !== undefined")
    await page.locator("#hang-up").click()
    await in_state(page, "idle")
    await page.evaluate("window.grant()")
    await until(page, "window.granted.length === 1")
    await until(page, "window.granted[0].getTracks().every((track) => track.readyState === 'ended')")
    assert await page.evaluate("window.callbus.socket") is None


async def test_the_pages_policy_holds_against_script_that_got_into_it(running, page):
    await page.evaluate("""() => {
      const inline = document.createElement("script");
      inline.textContent = "window.injected = true";
      const image = new Image();
      image.src = "http://127.0.0.1:9/secret";
      document.body.append(inline, image);
    }""")
    await until(page, "true")
    assert await page.evaluate("window.injected") is None
    async with asyncio.timeout(5):
        while len(page.complaints) < 2:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    assert all("Content Security Policy" in complaint for complaint in page.complaints)
    page.complaints.clear()


async def test_without_a_microphone_the_page_says_so_and_nobody_is_called(running, browser, feed):
    context = await browser.new_context(locale="en-US")
    page = await context.new_page()
    await page.add_init_script(
        "navigator.mediaDevices.getUserMedia = async () => { throw new DOMException('no', 'NotAllowedError'); };"
    )
    await page.goto(running.programs["browser_gateway"].where)
    offered = len(feed.of(CallOffered))
    await page.locator("#call").click()
    await page.locator("#problem:not(:empty)").wait_for(timeout=WAIT_MS)
    assert "microphone is not allowed" in await page.locator("#problem").inner_text()
    assert await page.locator("#call").is_enabled()
    assert len(feed.of(CallOffered)) == offered
    await context.close()


async def test_a_call_to_nobody_says_so(running, page, feed):
    await page.locator("#to").fill("nobody")
    await page.locator("#call").click()
    await in_state(page, "ended")
    assert "niemand erreichbar" in await page.locator("#state").inner_text()


async def test_a_person_at_the_page_speaks_with_a_telephone_and_its_death_brings_the_agent_back(running, browser, feed):
    said = tone(600, 12_000, 8000, -20)
    async with await Softphone.open() as phone:
        calling = await phone.call(running.sip_uri("echo"), from_user="+4930555777")
        async with asyncio.timeout(10):
            while not (mine := [one for one in feed.of(CallOffered) if one.caller == "+4930555777"]):  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        call_id = mine[0].call
        operator = await open_take_over(running, browser, call_id)
        await operator.locator("#call").click()
        await in_state(operator, "talking")
        await operator.evaluate(RECORD)
        already = len(calling.heard)
        calling.play(said)
        await asyncio.sleep(SILENCE_S + 5 + 4)
        at_the_phone = Resampler(8000, RATE_HZ).process(bytes(calling.heard)[already:])
        at_the_page = await taped(operator)
        print(f"likeness at the phone {likeness(at_the_phone):.3f}")
        assert likeness(at_the_phone) > 0.8
        assert best_correlation(tone(600, 500, RATE_HZ), at_the_page)[0] > 0.9
        await operator.locator("#keys").get_by_text("7", exact=True).click()
        await asyncio.sleep(0.5)
        assert await operator.locator("#problem").inner_text() == ""  # the leg did not refuse the key
        running.signal("browser_gateway", signal.SIGKILL)
        await until_owner_is(running, call_id, person=False)
        await in_state(operator, "ended")
        assert calling.ended is None
        await calling.hang_up()
        await end_of(feed, call_id)
        await operator.context.close()
