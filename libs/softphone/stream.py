"""The phone's TCP and TLS connections: it listens like a server and connects where a message must go."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, cast

from libs.sip.stream import StreamFramer

Address = tuple[str, int]
_CONNECT_S = 5.0


@dataclass(frozen=True, slots=True)
class PhoneTls:
    """`client` for connections that the phone opens; with `server` it accepts some, too."""

    client: ssl.SSLContext
    server: ssl.SSLContext | None = None
    server_name: str | None = None
    """What the certificate of the other side must show, where that is not its address."""


class _Connection(asyncio.Protocol):
    def __init__(self, owner: PhoneStreams, peer: Address | None = None) -> None:
        self._owner = owner
        self._framer = StreamFramer(is_client=peer is not None)
        self._out: asyncio.Transport | None = None
        self._waiting: list[bytes] = []
        self.peer = peer or ("", 0)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._out = cast("asyncio.Transport", transport)
        if not self.peer[1]:
            self.peer = self._out.get_extra_info("peername")[:2]
            self._owner.accepted(self)
        for data in self._waiting:
            self._out.write(data)

    def data_received(self, data: bytes) -> None:
        for message in self._framer.feed(data):
            self._owner.on_message(message, self.peer)
        if self._framer.error:
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._owner.lost(self)

    def send(self, data: bytes) -> None:
        if self._out is None:
            self._waiting.append(data)
        else:
            self._out.write(data)

    def close(self) -> None:
        if self._out is not None:
            self._out.close()


class PhoneStreams:
    """All connections of one phone, by the address of the other end."""

    def __init__(
        self, local_host: str, tls: PhoneTls | None, on_message: Callable[[bytes, Address], None],
        on_lost: Callable[[Address], None],
    ) -> None:  # fmt: skip
        self.on_message = on_message
        self._on_lost = on_lost
        self._local_host = local_host
        self._tls = tls
        self._loop = asyncio.get_running_loop()
        self._server: asyncio.Server | None = None
        self._connections: dict[Address, _Connection] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def listen(self, port: int) -> int:
        """Accept connections; gives the port. 0 when it is TLS and there is no certificate to show."""
        context = self._tls.server if self._tls is not None else None
        if self._tls is not None and context is None:
            return 0
        self._server = await self._loop.create_server(lambda: _Connection(self), self._local_host, port, ssl=context)
        return int(self._server.sockets[0].getsockname()[1])

    @property
    def peers(self) -> list[Address]:
        """Other ends of the connections that stand."""
        return list(self._connections)

    def accepted(self, connection: _Connection) -> None:
        self._connections[connection.peer] = connection

    def send(self, data: bytes, destination: Address) -> None:
        """Over the connection to `destination`, which is opened if there is none."""
        connection = self._connections.get(destination)
        if connection is None:
            connection = self._connections[destination] = _Connection(self, destination)
            self._start(self._open(connection))
        connection.send(data)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _open(self, connection: _Connection) -> None:
        host, port = connection.peer
        context = self._tls.client if self._tls is not None else None
        name = (self._tls.server_name or host) if self._tls is not None else None
        try:
            async with asyncio.timeout(_CONNECT_S):
                await self._loop.create_connection(
                    lambda: connection, host, port, ssl=context, server_hostname=name, local_addr=(self._local_host, 0)
                )
        except OSError:  # TimeoutError, ssl.SSLError and a refusal are all of them
            self.lost(connection)

    def lost(self, connection: _Connection) -> None:
        if self._connections.get(connection.peer) is connection:
            del self._connections[connection.peer]
            self._on_lost(connection.peer)

    def drop(self) -> None:
        """Close all connections and go on listening, for tests of what that costs."""
        for connection in list(self._connections.values()):
            connection.close()

    def close(self) -> None:
        """Close everything."""
        for task in self._tasks:
            task.cancel()
        connections, self._connections = self._connections, {}
        for connection in connections.values():
            connection.close()
        if self._server is not None:
            self._server.close()
