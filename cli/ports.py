"""Ports: which are free, and who has one that is not."""

from __future__ import annotations

import socket
from typing import Literal

import psutil

COMMAND_CHARACTERS = 60
Transport = Literal["tcp", "udp"]
_TYPES = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}


def free_port(host: str = "127.0.0.1", transport: Transport = "tcp") -> int:
    """A port that was free a moment ago. A TCP port is kept from all who ask the system for one, for a minute.

    It is left in TIME_WAIT: whoever binds to it by its number may (servers set SO_REUSEADDR), but neither another one
    who looks for a free port gets it, nor a connection from here, while our process still starts.
    """
    with socket.socket(socket.AF_INET, _TYPES[transport]) as probe:
        if transport == "tcp":
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((host, 0))
        address = probe.getsockname()
        if transport == "tcp":
            probe.listen(1)
            with socket.create_connection(address):
                probe.accept()[0].close()  # who closes first waits (RFC 9293 §3.6.1)
        return int(address[1])


def is_free(port: int, host: str, transport: Transport) -> bool:
    """Whether one can bind there now."""
    with socket.socket(socket.AF_INET, _TYPES[transport]) as probe:
        if transport == "tcp":  # as servers do: a connection in TIME_WAIT does not block
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def owner_of(port: int, transport: Transport) -> str:
    """`command line (pid 123)` of the process that has the port, or words to that effect when it may not be seen."""
    try:
        connections = psutil.net_connections(transport)
    except psutil.AccessDenied:  # macOS asks for root
        return "another process"
    for connection in connections:
        address = connection.laddr
        listening = transport == "udp" or connection.status == psutil.CONN_LISTEN
        if not address or address.port != port or not listening:
            continue
        if connection.pid is None:
            break
        try:
            process = psutil.Process(connection.pid)
            return f"{_command(process)} (pid {connection.pid})"
        except psutil.NoSuchProcess:
            break
    return "a process of another user"


def _command(process: psutil.Process) -> str:
    """Its command line, cut: `python` alone says little."""
    try:
        words = " ".join(process.cmdline())
    except psutil.AccessDenied:
        words = ""
    shown = "".join(c if c.isprintable() else " " for c in words) or process.name()
    return shown if len(shown) <= COMMAND_CHARACTERS else shown[: COMMAND_CHARACTERS - 1] + "…"


def complaint(port: int, host: str, transport: Transport, remedy: str) -> str | None:
    """One sentence naming who has the port and what to do, or None when it is free."""
    if is_free(port, host, transport):
        return None
    return f"port {port}/{transport} is taken by {owner_of(port, transport)}: {remedy}"
