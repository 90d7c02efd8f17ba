"""Twenty calls at once: every packet and frame is delivered or counted, on both ways, in every process.

No assertion is about time. A busy machine may lose datagrams in the kernel; how many, a bare UDP echo tells that
carries the same load in the same seconds.
"""

import asyncio
from collections import Counter
from typing import Any

from tenacity import AsyncRetrying, retry_if_result, stop_after_delay, wait_fixed

from libs.audio.tone import tone
from libs.contracts.events import CallEnded
from libs.contracts.media import MediaStatistics
from libs.softphone.phone import CallOptions, PhoneCall, Softphone
from libs.softphone.ticker import shared_ticker
from tests.load.udp_echo import udp_echo
from tests.support.platform import ECHO_AGENT, ECHO_ROUTE, Platform, platform

CALLS = 20
TALK_MS = 10_000
TAIL_S = 0.5
PACKET = bytes(172)
ALLOWED_LOSS = 0.001


class EchoedCall(asyncio.DatagramProtocol):
    """What one call sends, sent to the bare echo."""

    def __init__(self) -> None:
        self.sent = self.received = 0

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def tick(self, tick: int) -> None:
        self.sent += 1
        self._transport.sendto(PACKET)

    def datagram_received(self, data: bytes, addr: tuple[str | Any, int]) -> None:
        self.received += 1


async def talk(call: PhoneCall) -> None:
    await call.play(tone(400, TALK_MS, 8000)).wait()


async def echo_alone(address: tuple[str, int]) -> EchoedCall:
    """The same load without SIP, bus and worker."""
    transport, echoed = await asyncio.get_running_loop().create_datagram_endpoint(EchoedCall, remote_addr=address)
    shared_ticker().subscribe(echoed.tick)
    await asyncio.sleep(TALK_MS / 1000)
    shared_ticker().unsubscribe(echoed.tick)
    await asyncio.sleep(TAIL_S)
    transport.close()
    return echoed


def check_balance_of_call(media: MediaStatistics) -> None:
    in_order = media.rtp_received - media.rtp_late - media.rtp_duplicate
    assert in_order + media.up_concealed + media.up_filled == media.up_published + media.up_dropped
    of_the_worker = media.dn_control + media.dn_played + media.dn_trimmed + media.dn_flushed
    assert media.dn_received == of_the_worker + media.dn_discarded + media.dn_waiting
    assert media.dn_played <= media.rtp_sent + media.rtp_unsent


async def totals(running: Platform) -> Counter[str]:
    """Gateway's and worker's totals by what they count, prefixed with the metric's name."""
    found: Counter[str] = Counter()
    for process in ("sip_gateway", "ai_session-1"):
        for (name, labels), count in (await running.metrics(process)).items():
            if name in ("callbus_frames_total", "callbus_leg_rejected_total", "callbus_worker_frames_total"):
                found[" ".join([name.split("_")[1], *(value for _, value in labels)])] = int(count)
    return found


def unaccounted(total: Counter[str]) -> tuple[int, int]:
    """Frames between gateway and worker that nobody saw again: up, down."""
    taken_up = sum(total[f"worker up {what}"] for what in ("received", "unknown_call", "other_epoch"))
    taken_down = sum(total[f"frames down {what}"] for what in ("received", "stale", "fenced", "malformed"))
    return (
        total["frames up published"] - taken_up,
        total["worker down sent"] - taken_down - total["leg frame_for_unknown_call"],
    )


async def test_twenty_calls_lose_nothing_uncounted_and_hardly_more_than_a_bare_echo():
    async with (
        platform(documents=[ECHO_AGENT, ECHO_ROUTE]) as running,
        running.events() as feed,
        udp_echo() as echo,
        await Softphone.open() as phone,
    ):
        # silent but for the talk, so that nothing is on its way when a call ends
        options, uri = CallOptions(sends_silence=False), running.sip_uri("echo")
        calls = await asyncio.gather(*(phone.call(uri, options=options) for _ in range(CALLS)))
        echoed, *_ = await asyncio.gather(
            asyncio.gather(*(echo_alone(echo.address) for _ in calls)), *(talk(call) for call in calls)
        )
        await asyncio.sleep(TAIL_S)
        await asyncio.gather(*(call.hang_up() for call in calls))
        ended = [end.media for end in await feed.wait_for(CallEnded, CALLS)]
        settling = AsyncRetrying(
            stop=stop_after_delay(10),
            wait=wait_fixed(0.1),
            retry=retry_if_result(lambda total: any(unaccounted(total))),
            retry_error_callback=lambda state: state.outcome.result(),
        )
        total = await settling(totals, running)

    for media in ended:
        check_balance_of_call(media)
    assert unaccounted(total) == (0, 0), total

    sent = sum(call.packets_sent for call in calls)
    lost_up = sent - sum(media.rtp_received for media in ended)
    lost_down = sum(call.stats.lost for call in calls)
    sent_down = sum(call.stats.packets for call in calls) + lost_down
    assert sent_down <= sum(media.rtp_sent for media in ended)
    assert lost_up >= 0
    echo_sent = sum(one.sent for one in echoed)
    echo_lost = echo_sent - sum(one.received for one in echoed)
    loss, echo_loss = (lost_up + lost_down) / (sent + sent_down), echo_lost / (2 * echo_sent)
    print(f"lost {lost_up} of {sent} up, {lost_down} of {sent_down} down, echo {echo_lost} of {echo_sent}; {total}")
    assert loss <= echo_loss + ALLOWED_LOSS
