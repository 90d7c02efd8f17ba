"""Design promise 1: no call is dropped because one NATS server died. Of three, the one of the gateway is killed."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import aiohttp
import nats
import numpy as np
import pytest
from nats.aio.client import Client
from nats.js.errors import BadRequestError
from tenacity import AsyncRetrying, retry_if_exception_type, retry_if_result, stop_after_delay, wait_fixed

from cli.ports import free_port
from cli.programs import NATS_USERS, Options, plan
from cli.settings import private_environment
from cli.supervisor import Supervisor
from libs.audio.tone import tone
from libs.contracts import subjects
from libs.contracts.events import CallEnded, WorkerLost
from libs.contracts.termination import Reason
from libs.runtime.streams import bucket, provision
from libs.softphone.call import PhoneCall
from libs.softphone.phone import Softphone
from tests.support.containers import CLUSTER, NatsCluster, nats_cluster
from tests.support.platform import ECHO_AGENT, ECHO_ROUTE, EventFeed

pytestmark = [
    pytest.mark.docker,
    pytest.mark.timeout(240),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:testcontainers.*"),  # testcontainers in itself
]

PASSWORD = "p-cluster"
TONE = tone(440, 2000, 8000, -12)
LISTEN_S, LEAST_ECHOED = 3.0, 75  # half of the frames at least, the outage included
REPLICATED_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class Running:
    """Gateway and two workers on a cluster."""

    cluster: NatsCluster
    client: Client
    sip_port: int

    async def node_of(self, connection: str) -> int:
        """The server that holds the connection whose name begins and ends so: `gw-…-media`."""
        start, _, end = connection.partition("…")
        async with aiohttp.ClientSession() as http:
            for number in range(CLUSTER):
                async with http.get(f"{self.cluster.monitors[number]}/connz") as response:
                    names = [one.get("name", "") for one in (await response.json())["connections"]]
                if any(name.startswith(start) and name.endswith(end) for name in names):
                    return number
        raise AssertionError(f"no server holds {connection}")


@pytest.fixture
async def running() -> AsyncIterator[Running]:
    passwords = {f"NATS_{user.upper()}_PASSWORD": PASSWORD for user in NATS_USERS}
    with nats_cluster(passwords) as cluster:
        async with platform_on(cluster) as started:
            yield started


@asynccontextmanager
async def platform_on(cluster: NatsCluster) -> AsyncIterator[Running]:
    """The services as processes, their NATS_URL the cluster's, everything on the bus replicated."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="callbus-")))
        client = await nats.connect(cluster.urls("local", PASSWORD).split(","), user="local", password=PASSWORD)
        stack.push_async_callback(client.close)
        await replicate(client)
        store = await bucket(client.jetstream(), subjects.KV_CONFIG)
        for document in (ECHO_AGENT, ECHO_ROUTE):
            await store.put(document.key, document.to_json())
        sip_port = free_port(transport="udp")
        options = Options(
            var=folder, workers=2, sip_port=sip_port, rehearsal=False, browser=False, nats_port=free_port()
        )
        wanted = [one for one in plan(options).services if one.name.startswith(("sip_gateway", "ai_session"))]
        supervisor = await stack.enter_async_context(
            Supervisor(environment=private_environment(), cwd=folder, log_dir=folder / "log", tell=print)
        )
        for program in wanted:
            user = "gateway" if program.name == "sip_gateway" else "worker"
            env = dict(program.env) | {"NATS_URL": cluster.urls(user, PASSWORD), "LOG_FORMAT": "json"}
            await supervisor.start(replace(program, env=env))
        await supervisor.wait_ready(*wanted, timeout_s=60)
        try:
            yield Running(cluster, client, sip_port)
        except BaseException:
            for program in wanted:
                print(f"{program.name}:\n{supervisor.tail(program)}")
            raise


async def replicate(client: Client) -> None:
    """What an operator of a cluster does once: three replicas of every stream, of the buckets' too."""
    js = client.jetstream(timeout=10)
    await provision(js, wait_s=REPLICATED_TIMEOUT_S)
    knowing_each_other = AsyncRetrying(
        stop=stop_after_delay(REPLICATED_TIMEOUT_S),
        wait=wait_fixed(0.2),
        retry=retry_if_exception_type(BadRequestError),
    )  # until then: no suitable peers for placement
    for info in await js.streams_info():
        await knowing_each_other(js.update_stream, replace(info.config, num_replicas=CLUSTER))
    waiting = AsyncRetrying(
        stop=stop_after_delay(REPLICATED_TIMEOUT_S), wait=wait_fixed(0.2), retry=retry_if_result(lambda done: not done)
    )

    async def done() -> bool:
        return all(
            info.cluster is not None
            and len([peer for peer in info.cluster.replicas or [] if peer.current]) == CLUSTER - 1
            for info in await js.streams_info()
        )

    await waiting(done)


@pytest.mark.parametrize("connection", ["gw-…-media", "gw-…-control"])
async def test_a_call_goes_on_when_the_server_of_the_gateway_dies(running: Running, connection: str) -> None:
    feed = EventFeed()
    await running.client.subscribe(subjects.EVENTS_FILTER, cb=feed.take)
    target = f"sip:echo@127.0.0.1:{running.sip_port}"
    async with await Softphone.open() as phone:
        call = await phone.call(target, timeout_s=20)
        call.play(TONE * 10)
        await call.wait_for_speech()
        running.cluster.kill(await running.node_of(connection))
        assert await echoed_frames(call) > LEAST_ECHOED
        assert await echoed_frames(call) > LEAST_ECHOED  # and so it stays
        other = await phone.call(target, timeout_s=20)  # two of three servers are enough for what is new, too
        await other.hang_up()
        assert call.ended is None
        await call.hang_up()
        await feed.wait_for(CallEnded, 2)
    assert [one.termination.reason for one in feed.of(CallEnded)] == [Reason.CALLER_HUNG_UP] * 2
    assert feed.of(WorkerLost) == []  # nobody was judged dead for the bus's trouble


async def echoed_frames(call: PhoneCall) -> int:
    """How many 20 ms frames of the next seconds carry the tone."""
    start = len(call.heard)
    await asyncio.sleep(LISTEN_S)
    heard = np.frombuffer(bytes(call.heard[start:]), "<i2").astype(float)
    frames = heard[: len(heard) // 160 * 160].reshape(-1, 160)
    return int(np.sum(np.sqrt(np.mean(frames**2, axis=1)) > 1000))
