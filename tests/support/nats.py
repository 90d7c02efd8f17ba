"""A real nats-server per test module, on a free port, with the configuration that callbus ships."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

from cli.ports import free_port
from cli.programs import NATS_USERS

CONFIG = Path(__file__).resolve().parents[2] / "deploy" / "nats" / "nats.conf"


def nats_binary() -> str:
    """The server from the environment that runs the tests, else from PATH.

    Raises:
        RuntimeError: there is none: `make setup` installs it.
    """
    beside = Path(sys.executable).with_name("nats-server")
    found = str(beside) if beside.exists() else shutil.which("nats-server")
    if found is None:
        raise RuntimeError("nats-server is missing: run `make setup`")
    return found


def wait_listening(port: int, timeout_s: float = 10.0) -> None:
    """Return as soon as somebody accepts connections there.

    Raises:
        tenacity.RetryError: nobody did in time.
    """

    def reached() -> None:
        socket.create_connection(("127.0.0.1", port), 0.5).close()

    Retrying(stop=stop_after_delay(timeout_s), wait=wait_fixed(0.05), retry=retry_if_exception_type(OSError))(reached)


class NatsServer:
    """A nats-server process with JetStream in a directory of its own; can be killed and started again."""

    def __init__(self) -> None:
        self.port = free_port()
        self._store = tempfile.mkdtemp(prefix="callbus-nats-")
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"nats://127.0.0.1:{self.port}"

    def url_of(self, user: str) -> str:
        """Where a service connects with its own permissions."""
        return f"nats://{user}:{user}-test@127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Start and wait until it accepts connections."""
        passwords = {f"NATS_{user.upper()}_PASSWORD": f"{user}-test" for user in NATS_USERS}
        env = os.environ | {"NATS_PORT": str(self.port), "NATS_STORE": self._store} | passwords
        self._process = subprocess.Popen(
            [nats_binary(), "-c", str(CONFIG)], env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        async with asyncio.timeout(10):
            while True:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", self.port)
                except OSError:
                    if self._process.poll() is not None:
                        raise RuntimeError(f"nats-server ended with {self._process.returncode}") from None
                    await asyncio.sleep(0.02)
                else:
                    writer.close()
                    return

    def kill(self) -> None:
        """End it at once; the store stays."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    def close(self) -> None:
        """End it and remove its store."""
        self.kill()
        shutil.rmtree(self._store, ignore_errors=True)


@asynccontextmanager
async def nats_server() -> AsyncIterator[NatsServer]:
    """A running server for one test."""
    server = NatsServer()
    try:
        await server.start()
        yield server
    finally:
        server.close()
