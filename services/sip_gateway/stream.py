"""TCP and TLS connections of the gateway: accepted from sources that may call, opened on demand, one per peer.

A connection carries messages both ways and belongs to no call. It is found by the address of its other end, which is
what the SIP core names as a destination. What keeps strangers from costing us anything: a source that is not allowed is
closed before a byte is exchanged, connections are counted per source and in all, a message must come within `idle_s`,
and who does not read what we send is dropped at `unsent_bytes`. A connection without traffic stays as long as a call, a
registration or an open transaction needs it.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections import Counter, deque
from collections.abc import Coroutine
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, cast

from libs.runtime.log import get_logger
from libs.sip.stream import StreamFramer
from libs.sip.uri import DEFAULT_PORTS, Transport

log = get_logger()

Address = tuple[str, int]
WILDCARDS = ("0.0.0.0", "::")
V4_MAPPED = "::ffff:"  # RFC 4291 §2.5.5.2: how a socket on `::` shows an IPv4 peer
ACCEPTS_AT_ONCE = 16
MESSAGES_AT_ONCE = 16  # of one connection; then it is the turn of others, and of the media of all calls
ACCEPT_PAUSE_S = 1.0  # when the process has no file descriptor left


def plain(host: str) -> str:
    """An IPv4-mapped IPv6 address as the IPv4 address that peers know; any other as it is."""
    return host[len(V4_MAPPED) :] if host.startswith(V4_MAPPED) and "." in host else host


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files. `certificate` (with its chain) and `key` are ours: as server, and as client where peers ask for one.

    `ca` is whom we trust as servers, None for the system's list. Without `verify` we talk to anybody: for tests.
    """

    certificate: Path | None = None
    key: Path | None = None
    ca: Path | None = None
    verify: bool = True

    def client_context(self) -> ssl.SSLContext:
        """For connections that we open. Raises OSError (ssl.SSLError) for files that cannot be read."""
        context = ssl.create_default_context(cafile=self.ca)
        if not self.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if self.certificate is not None:
            context.load_cert_chain(self.certificate, self.key)
        return context

    def server_context(self) -> ssl.SSLContext:
        """For connections that we accept. Raises OSError (ssl.SSLError) for files that are missing or unreadable."""
        if self.certificate is None:
            raise FileNotFoundError("to accept TLS, a certificate and its key are needed")
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(self.certificate, self.key)
        return context


@dataclass(frozen=True, slots=True)
class StreamLimits:
    """Bounds of what peers can cost. `per_source` holds for accepted connections, `in_all` for each direction."""

    per_source: int = 32
    in_all: int = 512
    unsent_bytes: int = 65_536
    idle_s: float = 30.0
    connect_s: float = 5.0  # TCP and TLS handshake; short, because another server may be waiting to be tried


class Application(Protocol):
    """What the connections ask and tell."""

    def answers(self, host: str) -> bool:
        """Whether this source may connect at all."""

    def stream_received(self, transport: Transport, message: bytes, peer: Address) -> None:
        """One message, or a ping."""

    def stream_lost(self, transport: Transport, peer: Address) -> None:
        """There is no connection to `peer` any more, or none came about."""

    def stream_needed(self, transport: Transport, peer: Address) -> bool:
        """Whether a call, a registration or a transaction needs the connection."""


class Connection(asyncio.Protocol):
    """One TCP or TLS connection, from the first attempt on."""

    def __init__(self, owner: StreamConnections, transport: Transport, peer: Address, is_client: bool) -> None:
        self.transport = transport
        self.peer = peer
        self.is_client = is_client
        self._owner = owner
        self._loop = asyncio.get_running_loop()
        self._framer = StreamFramer(is_client)
        self._out: asyncio.Transport | None = None
        self._waiting: list[bytes] = []  # to be sent when the connection is made
        self._unread: deque[bytes] = deque()  # messages that wait for their turn; no more is read meanwhile
        self._is_closing = False
        self._active_at = self._loop.time()
        self._timer = self._loop.call_later(owner.limits.idle_s, self._idle)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._out = cast("asyncio.Transport", transport)
        if self._is_closing:
            self._out.abort()
            return
        _set_options(self._out.get_extra_info("socket"))
        waiting, self._waiting = self._waiting, []
        for data in waiting:
            self.send(data)

    def send(self, data: bytes) -> None:
        """Send, or keep it until the connection is made. Who does not read loses the connection."""
        if self._is_closing:
            return
        self._active_at = self._loop.time()
        if self._out is None:
            self._waiting.append(data)
            unsent = sum(map(len, self._waiting))
        else:
            self._out.write(data)
            unsent = self._out.get_write_buffer_size()
        if unsent > self._owner.limits.unsent_bytes:
            self._owner.counters["stream_unsent"] += 1
            self.abort()

    def data_received(self, data: bytes) -> None:
        if self._is_closing:
            return
        is_waiting = bool(self._unread)
        self._unread += self._framer.feed(data)
        if not is_waiting:
            self._take_turn()

    def _take_turn(self) -> None:
        for _ in range(min(MESSAGES_AT_ONCE, len(self._unread))):
            self._active_at = self._loop.time()
            self._owner.received(self, self._unread.popleft())
        if self._unread and not self._is_closing:
            if self._out is not None and not self._out.is_closing():
                self._out.pause_reading()
            self._loop.call_soon(self._take_turn)
            return
        if self._out is not None and not self._out.is_closing() and not self._out.is_reading():
            self._out.resume_reading()
        if self._framer.error:
            self._owner.counters["stream_broken"] += 1
            log.warning("a SIP connection is closed", peer=self.peer[0], problem=self._framer.error)
            self.close()

    def eof_received(self) -> bool:
        return False  # no half-open connections: the transport closes

    def connection_lost(self, exc: Exception | None) -> None:
        self.gone()

    def _idle(self) -> None:
        silent_s = self._loop.time() - self._active_at
        limit_s = self._owner.limits.idle_s
        if self._owner.application.stream_needed(self.transport, self.peer):
            silent_s = 0.0
        if silent_s >= limit_s:
            self._owner.counters["stream_idle"] += 1
            self.close()
        else:
            self._timer = self._loop.call_later(limit_s - silent_s, self._idle)

    def close(self) -> None:
        """Send what is written, then close; who does not take it in time loses it."""
        if self._out is None or self._is_closing:
            self.abort()
            return
        self._is_closing = True
        self._timer.cancel()
        self._timer = self._loop.call_later(self._owner.limits.connect_s, self._out.abort)
        self._out.close()

    def abort(self) -> None:
        """Close at once."""
        self._is_closing = True
        self._timer.cancel()
        if self._out is not None:
            self._out.abort()

    def gone(self) -> None:
        """It ended, or never began."""
        self._timer.cancel()
        self._owner.lost(self)


def _set_options(sock: socket.socket | None) -> None:
    """Dead peers are found out: unacknowledged data for 64*T1 ends the connection, as silence does over UDP."""
    if sock is not None and hasattr(socket, "TCP_USER_TIMEOUT"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 32_000)


class StreamConnections:
    """All TCP and TLS connections of one `SipTransport`, and the tasks that open them."""

    def __init__(
        self, application: Application, host: str, tls: TlsFiles, limits: StreamLimits, counters: Counter[str]
    ) -> None:  # fmt: skip
        self.application = application
        self.limits = limits
        self.counters = counters
        self.server_names: dict[str, str] = {}
        """By address: the name that its certificate must show."""
        self._named_servers: set[Address] = set()
        self._host = host
        self._tls = tls
        self._loop = asyncio.get_running_loop()
        self._by_peer: dict[tuple[Transport, Address], Connection] = {}
        self._all: set[Connection] = set()
        self._listeners: list[socket.socket] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_closed = False

    @property
    def count(self) -> int:
        """Connections that exist or are about to."""
        return len(self._all)

    @cached_property
    def _client_context(self) -> ssl.SSLContext:
        return self._tls.client_context()

    # -- accepting ---------------------------------------------------------------------------------------------

    def listen(self, transport: Transport, port: int) -> int:
        """Accept connections; gives the port, which matters when 0 asked for any.

        Raises:
            OSError: the address is taken or not ours, or a file for TLS cannot be read.
        """
        context = self._tls.server_context() if transport == "tls" else None
        is_ipv6 = ":" in self._host
        sock = socket.create_server(
            (self._host, port), family=socket.AF_INET6 if is_ipv6 else socket.AF_INET, backlog=128,
            dualstack_ipv6=self._host == "::",
        )  # fmt: skip
        sock.setblocking(False)
        self._listeners.append(sock)
        self._loop.add_reader(sock, self._accept, sock, transport, context)
        return int(sock.getsockname()[1])

    def _accept(self, listener: socket.socket, transport: Transport, context: ssl.SSLContext | None) -> None:
        for _ in range(ACCEPTS_AT_ONCE):
            try:
                sock, address = listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:  # no file descriptors: the kernel would call us again at once, and again
                self.counters["accept_failed"] += 1
                log.warning("no SIP connection can be accepted for a moment", problem=str(error))
                self._loop.remove_reader(listener)
                self._loop.call_later(ACCEPT_PAUSE_S, self._accept_again, listener, transport, context)
                return
            peer = plain(str(address[0])), int(address[1])
            if not self._admits(peer[0]) or (transport == "tls" and self._is_impostor(peer)):
                sock.close()
                continue
            sock.setblocking(False)
            connection = self._add(Connection(self, transport, peer, is_client=False))
            self._start(self._greet(connection, sock, context))

    def _accept_again(self, listener: socket.socket, transport: Transport, context: ssl.SSLContext | None) -> None:
        if not self._is_closed:
            self._loop.add_reader(listener, self._accept, listener, transport, context)

    def _admits(self, host: str) -> bool:
        if not self.application.answers(host):
            self.counters["source_not_allowed"] += 1
            return False
        accepted = [connection.peer[0] for connection in self._all if not connection.is_client]
        if len(accepted) >= self.limits.in_all or accepted.count(host) >= self.limits.per_source:
            self.counters["too_many_connections"] += 1
            return False
        return True

    def _is_impostor(self, peer: Address) -> bool:
        """Our requests to a TLS server go by its address, so they would go to whoever connects from there."""
        host, port = peer
        found = peer in self._named_servers or (host in self.server_names and port == DEFAULT_PORTS["tls"])
        if found:
            self.counters["server_not_verified"] += 1
        return found

    async def _greet(self, connection: Connection, sock: socket.socket, context: ssl.SSLContext | None) -> None:
        try:
            async with asyncio.timeout(self.limits.connect_s):
                await self._loop.connect_accepted_socket(lambda: connection, sock, ssl=context)
            self.counters["connections_accepted"] += 1
        except (OSError, TimeoutError) as error:
            self.counters["handshake_failed"] += 1
            log.info("no TLS with a SIP peer", peer=connection.peer[0], problem=str(error) or "it took too long")
            connection.abort()
            connection.gone()

    # -- sending -----------------------------------------------------------------------------------------------

    def send(self, transport: Transport, data: bytes, peer: Address) -> None:
        """Over the connection to `peer`, which is opened if there is none."""
        connection = self._by_peer.get((transport, peer))
        if connection is None:
            connection = self._connect(transport, peer)
        connection.send(data)

    def _connect(self, transport: Transport, peer: Address) -> Connection:
        if transport == "tls" and peer[0] in self.server_names:
            self._named_servers.add(peer)
        connection = self._add(Connection(self, transport, peer, is_client=True))
        if sum(other.is_client for other in self._all) > self.limits.in_all:
            self.counters["too_many_connections"] += 1
            self._loop.call_soon(connection.gone)
        else:
            self._start(self._open(connection))
        return connection

    async def _open(self, connection: Connection) -> None:
        host, port = connection.peer
        problem = ""
        try:
            context = self._client_context if connection.transport == "tls" else None
            name = self.server_names.get(host, host) if context is not None else None
            local = (self._host, 0) if self._host not in WILDCARDS else None
            async with asyncio.timeout(self.limits.connect_s):
                await self._loop.create_connection(
                    lambda: connection, host, port, ssl=context, server_hostname=name, local_addr=local
                )
            self.counters["connections_opened"] += 1
        except TimeoutError:
            problem = f"no connection in {self.limits.connect_s:g} s"
        except (OSError, ValueError) as error:  # ValueError: a server name that cannot stand in TLS
            problem = str(error)
        if problem:
            self.counters["connect_failed"] += 1
            log.warning("no SIP connection", peer=f"{host}:{port}", transport=connection.transport, problem=problem)
            connection.abort()
            connection.gone()

    # -- bookkeeping -------------------------------------------------------------------------------------------

    def _add(self, connection: Connection) -> Connection:
        self._all.add(connection)
        # a peer that connects from the port that it listens on replaces the connection that we opened to it
        self._by_peer[connection.transport, connection.peer] = connection
        return connection

    def received(self, connection: Connection, message: bytes) -> None:
        """From a connection: one message."""
        self.application.stream_received(connection.transport, message, connection.peer)

    def lost(self, connection: Connection) -> None:
        """From a connection, perhaps twice: it is no more."""
        if connection not in self._all:
            return
        self._all.remove(connection)
        key = connection.transport, connection.peer
        if self._by_peer.get(key) is connection:
            del self._by_peer[key]
            if not self._is_closed:
                self.application.stream_lost(*key)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        """Opening takes turns of the loop. Such a task catches what can fail; it ends within `connect_s`."""
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def close(self) -> None:
        """Stop listening, close all connections after what is written."""
        self._is_closed = True
        for listener in self._listeners:
            self._loop.remove_reader(listener)
            listener.close()
        self._listeners.clear()
        for task in self._tasks:
            task.cancel()
        for connection in list(self._all):
            connection.close()
