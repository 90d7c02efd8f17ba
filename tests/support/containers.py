"""Servers for tests, as TEST_SERVICES wants them (tests/support/services.py): containers, or processes.

testcontainers warns of its own decorators when it is imported: that happens where a test runs, which may ignore it.
"""

from __future__ import annotations

import glob
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cli.ports import free_port
from tests.support.nats import CONFIG, nats_binary, wait_listening
from tests.support.services import NATS_IMAGE, POSTGRES_IMAGE, mode, needs_docker

if TYPE_CHECKING:
    from testcontainers.core.container import DockerContainer

CLUSTER = 3


@contextmanager
def nats_for_tests() -> Iterator[str]:
    """The URL of one server with JetStream, without accounts."""
    if mode() == "docker":
        needs_docker(NATS_IMAGE)
        from testcontainers.community.nats import NatsContainer

        _without_reaper()
        with NatsContainer(NATS_IMAGE, jetstream=True) as container:
            yield container.nats_uri()
        return
    with ExitStack() as stack:
        store = stack.enter_context(tempfile.TemporaryDirectory(prefix="callbus-nats-"))
        port = free_port()
        command = (nats_binary(), "-a", "127.0.0.1", "-p", str(port), "-js", "-sd", store)
        stack.enter_context(_process(*command))
        wait_listening(port)
        yield f"nats://127.0.0.1:{port}"


@contextmanager
def postgres_for_tests() -> Iterator[str]:
    """The URL of an empty database; skips with the reason where neither a container nor a server can be had."""
    if mode() == "docker":
        needs_docker(POSTGRES_IMAGE)
        from testcontainers.community.postgres import PostgresContainer

        _without_reaper()
        with PostgresContainer(POSTGRES_IMAGE, driver=None) as container:
            yield container.get_connection_url()
        return
    programs = next(iter(sorted(glob.glob("/usr/lib/postgresql/*/bin"), reverse=True)), None)
    initdb = shutil.which("initdb", path=programs) or shutil.which("initdb")
    if initdb is None:
        pytest.skip("neither docker (with postgres:17-alpine) nor PostgreSQL (initdb) is here")
    user = "postgres" if os.getuid() == 0 else pwd.getpwuid(os.getuid()).pw_name  # initdb refuses to be root
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="callbus-postgres-"))
        if os.getuid() == 0:
            shutil.chown(folder, user)
        data, port = f"{folder}/data", free_port()
        subprocess.run([initdb, "--username=test", "--auth=trust", data], user=user, check=True, capture_output=True)
        server = (str(Path(initdb).with_name("postgres")), "-D", data, "-h", "127.0.0.1", "-p", str(port), "-k", folder)
        stack.enter_context(_process(*server, user=user))
        wait_listening(port)
        yield f"postgresql://test@127.0.0.1:{port}/postgres"


class NatsCluster:
    """Three servers with the users of deploy/nats; each can be killed."""

    def __init__(self, nodes: list[DockerContainer]) -> None:
        self._nodes = nodes
        self.addresses = [f"127.0.0.1:{node.get_exposed_port(4222)}" for node in nodes]
        self.monitors = [f"http://127.0.0.1:{node.get_exposed_port(8222)}" for node in nodes]

    def urls(self, user: str, password: str) -> str:
        """What a service is given as NATS_URL."""
        return ",".join(f"nats://{user}:{password}@{address}" for address in self.addresses)

    def kill(self, node: int) -> None:
        """SIGKILL."""
        self._nodes[node].get_wrapped_container().kill()


@contextmanager
def nats_cluster(passwords: Mapping[str, str]) -> Iterator[NatsCluster]:
    """Three servers in containers that form a cluster. `passwords`: the variables of deploy/nats/nats.conf."""
    needs_docker(NATS_IMAGE)
    from testcontainers.core.container import DockerContainer
    from testcontainers.core.network import Network
    from testcontainers.core.wait_strategies import HttpWaitStrategy

    _without_reaper()
    with ExitStack() as stack:
        network = stack.enter_context(Network())
        nodes: list[DockerContainer] = []
        for number in range(CLUSTER):
            node = DockerContainer(NATS_IMAGE).with_command("-c /etc/callbus/cluster.conf")
            node.with_network(network).with_network_aliases(f"node-{number}").with_exposed_ports(4222, 8222)
            node.with_volume_mapping(str(CONFIG.parent), "/etc/callbus", "ro")
            others = [f"nats://node-{other}:6222" for other in range(CLUSTER) if other != number]
            node.with_envs(
                NATS_PORT="4222", NATS_STORE="/data", NATS_SERVER_NAME=f"node-{number}",
                NATS_ROUTE_1=others[0], NATS_ROUTE_2=others[1], **passwords,
            )  # fmt: skip
            node.waiting_for(HttpWaitStrategy(8222, "/healthz?js-enabled-only=true").for_status_code(200))
            nodes.append(node)
        for node in nodes:  # they need each other to be ready
            stack.enter_context(node)
        yield NatsCluster(nodes)


def _without_reaper() -> None:
    """testcontainers' own image that cleans up after killed tests: one more to pull, and it rules the daemon."""
    from testcontainers.core.config import testcontainers_config

    testcontainers_config.ryuk_disabled = True


@contextmanager
def _process(*command: str, user: str | None = None) -> Iterator[None]:
    running = subprocess.Popen(command, user=user, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        running.terminate()
        try:
            running.wait(10)
        except subprocess.TimeoutExpired:
            running.kill()
            running.wait()
