"""deploy/compose.yaml as tests start it: a project of its own, free ports on loopback, the rehearsal as the model."""

from __future__ import annotations

import asyncio
import json
import os
import random
import secrets
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tenacity import AsyncRetrying, retry_if_result, stop_after_delay, wait_fixed

from cli.ports import free_port, is_free

ROOT = Path(__file__).resolve().parents[2]
RTP_PORTS_WANTED = 12  # of five calls; each one is a process of docker's proxy
READY_TIMEOUT_S = 60.0
BUILD_TIMEOUT_S, UP_TIMEOUT_S, COMMAND_TIMEOUT_S = 900.0, 180.0, 90.0
CA_OF_THE_MACHINE = Path("/etc/ssl/certs/ca-certificates.crt")  # with what an administrator added to it


class CommandFailed(AssertionError):
    """A docker command, and what it said."""


class Stack:
    """What runs. Workers are named `PROJECT-ai_session-1` and so on."""

    def __init__(self, project: str, environment: dict[str, str]) -> None:
        self.project = project
        self._environment = environment
        self.sip_port = int(environment["SIP_LISTEN_PORT"])
        self.nats_url = ""
        self.rehearsal_url = ""

    async def compose(self, *arguments: str, timeout_s: float = COMMAND_TIMEOUT_S) -> str:
        """`docker compose …` on this project; what it printed."""
        command = ("compose", "--project-name", self.project, "--profile", "rehearsal", *arguments)
        return await docker(*command, environment=self._environment, timeout_s=timeout_s)

    async def up(self) -> None:
        """Build what changed, start everything, and wait until all of it can take calls."""
        await self.compose("build", "--quiet", timeout_s=BUILD_TIMEOUT_S)
        await self.compose("up", "--detach", "--wait", "--quiet-pull", timeout_s=UP_TIMEOUT_S)
        password = self._environment["NATS_LOCAL_PASSWORD"]
        self.nats_url = f"nats://local:{password}@{(await self.compose('port', 'nats', '4222')).strip()}"
        self.rehearsal_url = f"http://{(await self.compose('port', 'rehearsal', '8080')).strip()}"

    async def containers(self, *services: str) -> list[str]:
        """Names of the containers of these services, or of all."""
        rows = await self.compose("ps", "--all", "--format", "json", *services)
        return sorted(str(json.loads(row)["Name"]) for row in rows.splitlines() if row)

    async def stop(self, container: str) -> int:
        """As `docker compose stop` does, with the file's stop_grace_period; the exit code."""
        await docker("stop", container)
        return int(await docker("inspect", "--format", "{{.State.ExitCode}}", container))

    async def start(self, container: str) -> None:
        """Start one that was stopped, and wait until it can take calls."""
        await docker("start", container)
        waiting = AsyncRetrying(
            stop=stop_after_delay(READY_TIMEOUT_S),
            wait=wait_fixed(0.2),
            retry=retry_if_result(lambda it: it != "healthy"),
        )
        await waiting(self.health, container)

    async def health(self, container: str) -> str:
        """`starting`, `healthy` or `unhealthy`."""
        return (await docker("inspect", "--format", "{{.State.Health.Status}}", container)).strip()

    async def logs(self, *services: str) -> str:
        """The end of what they wrote."""
        return await self.compose("logs", "--no-color", "--tail", "60", *services)


@asynccontextmanager
async def stack(**environment: str) -> AsyncIterator[Stack]:
    """Everything of the profile rehearsal; removed with its volumes in the end. `environment` is as in `.env`."""
    sip_port = free_port(transport="udp")
    low = free_udp_range(RTP_PORTS_WANTED)
    chosen = {
        "SIP_LISTEN_PORT": str(sip_port),
        "SIP_TCP_PORT": str(free_port()),
        "RTP_PORTS": f"{low}-{low + RTP_PORTS_WANTED - 1}",
        "NATS_PUBLISH_PORT": "0",
        "BROWSER_LISTEN_PORT": str(free_port()),
        "NATS_LOCAL_PASSWORD": f"p{secrets.token_hex(8)}",
        "BUILD_CA_FILE": _authorities(),
        **environment,
    }
    with tempfile.NamedTemporaryFile() as nothing:  # in place of the person's .env
        running = Stack(f"callbus-test-{secrets.token_hex(3)}", chosen | {"COMPOSE_ENV_FILES": nothing.name})
        try:
            await running.up()
            yield running
        except BaseException:
            sys.stderr.write(await running.logs())
            raise
        finally:
            await running.compose("down", "--volumes", "--timeout", "10")


async def build(service: str) -> str:
    """Build a service's image, or `cli`'s; its tag. Takes a second when nothing changed."""
    tag = f"callbus-{service}:test"
    await docker(
        "build", "--quiet", "--file", "deploy/Dockerfile", "--build-arg", f"SERVICE={service}",
        "--secret", f"id=ca,src={_authorities()}", "--tag", tag, ".",
        environment={"DOCKER_BUILDKIT": "1"}, timeout_s=BUILD_TIMEOUT_S,
    )  # fmt: skip
    return tag


async def docker(
    *arguments: str, environment: dict[str, str] | None = None, timeout_s: float = COMMAND_TIMEOUT_S
) -> str:
    """Run it; what it printed.

    Raises:
        CommandFailed: it ended with another code than 0.
        TimeoutError: it took too long.
    """
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "DOCKER_HOST") if name in os.environ}
    process = await asyncio.create_subprocess_exec(
        "docker", *arguments, cwd=ROOT, env=kept | (environment or {}),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        async with asyncio.timeout(timeout_s):
            out, said = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0:
        raise CommandFailed(f"docker {' '.join(arguments)}: {said.decode(errors='replace')[-3000:]}")
    return out.decode(errors="replace")


def free_udp_range(count: int) -> int:
    """The first of so many neighbouring UDP ports that were free a moment ago."""
    while True:
        low = random.randrange(20_000, 30_000, 2)
        if all(is_free(port, "127.0.0.1", "udp") for port in range(low, low + count)):
            return low


def _authorities() -> str:
    return str(CA_OF_THE_MACHINE) if CA_OF_THE_MACHINE.exists() else "/dev/null"
