"""A feed and a phone beside the platform of a file (its fixture `running`), and calls that know their id."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator

import pytest_asyncio

from libs.softphone.phone import PhoneCall, Softphone
from tests.support.platform import EventFeed, Platform

NUMBERS = itertools.count(1)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def feed(running: Platform) -> AsyncIterator[EventFeed]:
    """All events of the file's platform."""
    async with running.events() as following:
        yield following


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def phone(running: Platform) -> AsyncIterator[Softphone]:
    """One softphone for all tests of the file."""
    async with await Softphone.open() as opened:
        yield opened


async def place(running: Platform, feed: EventFeed, phone: Softphone, user: str) -> tuple[PhoneCall, str]:
    """A call that is answered, and its id: it comes from a number that no other call has."""
    caller = f"+4930778{next(NUMBERS):04}"
    call = await phone.call(running.sip_uri(user), from_user=caller)
    return call, await feed.answered(caller)
