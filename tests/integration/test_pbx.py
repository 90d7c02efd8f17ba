"""Calls through Kamailio as the provider, with baresip and SIPp as far ends; what both sides heard is compared."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from libs.contracts.events import CallEnded, CallOffered
from libs.contracts.termination import Reason
from tests.integration.peers import require
from tests.support.pbx import (
    AGENT_SAYS, ALICE, ALICE_SAYS, FAR_NUMBER, UDP_NUMBER, Pbx, end_of, likeness, pbx,
)  # fmt: skip

pytestmark = [pytest.mark.peer, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(60)]
ALIKE = 0.9


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def network(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Pbx]:
    for program in ("kamailio", "baresip", "sipp"):
        require(program)
    async with pbx(tmp_path_factory.mktemp("pbx")) as running:
        yield running


async def test_it_registers_over_udp_and_tls_and_refreshes(network: Pbx) -> None:
    before = {user: network.provider.registrations(user) for user in ("1234567t0", "1234567t1")}
    async with asyncio.timeout(10):
        while any(network.provider.registrations(user) < count + 2 for user, count in before.items()):
            await asyncio.sleep(0.1)


async def test_an_inbound_call_is_heard_on_both_sides(network: Pbx) -> None:
    async with network.callbus.events() as feed, network.phone(network.alice) as alice:
        alice.dial(UDP_NUMBER)
        offer = await network.agent.next_call()
        await alice.event("CALL_ESTABLISHED")
        await network.agent.hears(offer)
        await network.agent.say(offer, AGENT_SAYS)
        await network.agent.hears(offer, 1)
        alice.command("hangup")
        ended = await end_of(feed, offer.call)
        assert ended.termination.reason is Reason.CALLER_HUNG_UP
        assert likeness(ALICE_SAYS, network.agent.heard(offer)) >= ALIKE
        assert likeness(AGENT_SAYS, alice.recording()) >= ALIKE
