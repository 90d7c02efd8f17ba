"""deploy/compose.yaml as an operator starts it: calls from outside, workers that are restarted in the middle of one."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from io import StringIO

import pytest
from rich.console import Console

from cli.bus import connected
from cli.demo.call_log import CallLog
from cli.demo.conversation import Place
from cli.demo.external import call_elsewhere
from cli.errors import NotRunning
from libs.contracts.events import CallClaimed
from tests.support.compose import Stack, docker, stack
from tests.support.services import NATS_IMAGE, POSTGRES_IMAGE, PYTHON_IMAGE, needs_docker

pytestmark = [pytest.mark.docker, pytest.mark.timeout(900)]  # the images may have to be built

# Ten containers share this machine and two start in the middle of the call: the voice may be torn where the gateway's
# own counters say why, and nowhere else.
FIDELITY, EXPLAINED = "what the ledger says was heard was heard", "on its way"
HEARTBEATS_SEEN = 60  # four workers, ten each in a second
IDENTITY = "import urllib.request as r; print(r.urlopen('http://127.0.0.1:8080/healthz').read().decode())"


@pytest.fixture
async def running() -> AsyncIterator[Stack]:
    needs_docker(NATS_IMAGE, POSTGRES_IMAGE, PYTHON_IMAGE, compose=True)
    async with stack() as started:
        yield started


async def test_both_workers_are_restarted_one_after_the_other_and_the_caller_does_not_notice(running: Stack) -> None:
    exit_codes: list[int] = []
    claims: list[CallClaimed] = []

    async def restart_both(log: CallLog) -> None:
        claims.extend(event for event in log.events if isinstance(event, CallClaimed))
        for container in await owner_first(running, claims[-1].wk):
            mark = len(log.events)
            exit_codes.append(await running.stop(container))
            claims.append(await log.wait_for(CallClaimed, mark))
            await running.start(container)

    place = Place(running.sip_port, running.rehearsal_url)
    shown = StringIO()
    checks = await call_elsewhere(running.nats_url, place, Console(file=shown, width=160), restart_both)
    failed = [
        check
        for check in checks
        if not check.passed and not (check.text.startswith(FIDELITY) and EXPLAINED in check.detail)
    ]
    assert failed == [], shown.getvalue()
    assert exit_codes == [0, 0]  # drained, not killed
    assert len({claim.wk for claim in claims}) == 3  # a restarted worker is a new one
    assert [claim.epoch for claim in claims] == sorted({claim.epoch for claim in claims})


async def test_workers_are_scaled_by_an_option_and_everything_ends_when_it_is_asked_to(running: Stack) -> None:
    await running.compose("up", "--detach", "--wait", "--no-recreate", "--scale", "ai_session=4")
    async with connected(running.nats_url) as client:
        beats = await client.subscribe("v1.hb.wk.*")
        alive = {(await beats.next_msg(5)).subject for _ in range(HEARTBEATS_SEEN)}
    assert len(alive) == 4
    with pytest.raises(NotRunning, match="refuses"):
        async with connected(running.nats_url.replace("local:", "local:not")):
            pass
    assert "violation" not in await running.compose("logs", "nats")  # nobody asks for more than its user may
    ours = [one for one in await running.containers() if not one.endswith(("-nats-1", "-postgres-1"))]
    for container in ours:
        assert await docker("inspect", "--format", "{{.Config.User}}", container) == "10001:10001\n"
    await running.compose("stop")
    codes = {one: (await docker("inspect", "--format", "{{.State.ExitCode}}", one)).strip() for one in ours}
    assert {one: code for one, code in codes.items() if code != "0"} == {}, await running.logs()


async def owner_first(running: Stack, worker: str) -> list[str]:
    """The workers' containers, the one with the call before the other."""
    owners: dict[str, bool] = {}
    for container in await running.containers("ai_session"):
        identity = json.loads(await docker("exec", container, "python", "-c", IDENTITY))
        owners[container] = identity["id"] == worker
    assert sorted(owners.values()) == [False, True]
    return sorted(owners, key=lambda container: not owners[container])
