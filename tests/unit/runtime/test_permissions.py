"""deploy/nats/nats.conf: each service may do its own work and nothing else."""

from __future__ import annotations

import asyncio

import nats
import pytest

from tests.support.nats import NATS_USERS, nats_server

SUBJECTS = {
    "up": "v1.default.aud.gw-1.wk-1.C.up",
    "dn": "v1.default.aud.gw-1.wk-1.C.dn",
    "agent": "v1.default.ctl.C.agent",
    "leg": "v1.default.ctl.C.leg",
    "tool": "v1.default.tool.order_add",
    "ended": "v1.default.evt.C.call.ended",
    "placed": "v1.default.evt.C.order.placed",
    "turn": "v1.default.evt.C.caller.turn",
    "gone": "v1.sys.gone",
    "config": "$KV.config.agent.default.x",
    "calls": "$KV.calls.C",
    "spend": "$KV.spend.default.2026-11-21.wk-1",
    "others_inbox": "_INBOX_operator.1",
    "make": "$JS.API.STREAM.CREATE.EVENTS",
    "copy": "$JS.API.STREAM.CREATE.COPY_OF_EVENTS",
    "change": "$JS.API.STREAM.UPDATE.EVENTS",
    "purge": "$JS.API.STREAM.PURGE.EVENTS",
    "delete": "$JS.API.STREAM.DELETE.EVENTS",
    "erase": "$JS.API.STREAM.MSG.DELETE.EVENTS",
    "follow": "$JS.API.CONSUMER.CREATE.EVENTS.name.v1.*.evt.>",
    "follow_for_good": "$JS.API.CONSUMER.DURABLE.CREATE.EVENTS.name",
    "unbind": "$JS.API.CONSUMER.DELETE.EVENTS.transcript_store",
    "watch": "$JS.API.CONSUMER.CREATE.KV_config",
    "watch_money": "$JS.API.CONSUMER.CREATE.KV_spend",
}
MAY_PUBLISH = {
    "gateway": {"up", "agent", "ended", "placed", "turn", "calls", "make", "watch", "watch_money"},
    "browser": {"up", "dn", "agent", "leg", "ended", "placed", "turn", "calls", "make", "watch", "watch_money"},
    "worker": {"dn", "leg", "tool", "ended", "placed", "turn", "spend", "make", "follow", "watch_money"},
    "tools": {"placed", "make", "watch"},
    "store": {"ended", "calls", "make", "follow_for_good"},
    "recorder": {"leg", "make"},
    "local": set(SUBJECTS),
}
MAY_SUBSCRIBE = {
    "gateway": {"dn", "leg", "gone"},
    "browser": {"up", "dn", "agent", "leg", "gone", "ended", "placed", "turn"},
    "worker": {"up", "agent"},
    "tools": {"tool"},
    "store": set(),
    "recorder": {"up", "dn", "ended"},
    "local": set(SUBJECTS),
}


@pytest.mark.parametrize("user", NATS_USERS)
async def test_a_service_may_do_its_own_work_and_nothing_else(user: str) -> None:
    async with nats_server() as server:
        refused: list[str] = []
        expected = 2 * len(SUBJECTS) - len(MAY_PUBLISH[user]) - len(MAY_SUBSCRIBE[user])
        complete = asyncio.Event()

        async def note(error: Exception) -> None:
            refused.append(str(error).lower())
            if len(refused) >= expected:
                complete.set()

        client = await nats.connect(server.url_of(user), error_cb=note, inbox_prefix=f"_INBOX_{user}")
        for subject in SUBJECTS.values():
            await client.publish(subject, b"")
            await client.subscribe(subject)
        await client.flush()
        if expected:  # refusals are reported one by one, behind the flush
            async with asyncio.timeout(5):
                await complete.wait()
        said = " ".join(refused)
        may_publish = {name for name, s in SUBJECTS.items() if f'publish to "{s.lower()}"' not in said}
        may_subscribe = {name for name, s in SUBJECTS.items() if f'subscription to "{s.lower()}"' not in said}
        await client.close()
        assert may_publish == MAY_PUBLISH[user]
        assert may_subscribe == MAY_SUBSCRIBE[user]
