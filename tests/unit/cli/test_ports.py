"""A busy port is named with its process."""

import os
import socket
from typing import Literal

import psutil
import pytest

from cli.ports import NOT_EPHEMERAL, complaint, free_port, is_free


@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_a_taken_port_is_named_with_its_process(transport: Literal["tcp", "udp"]) -> None:
    kind = socket.SOCK_STREAM if transport == "tcp" else socket.SOCK_DGRAM
    with socket.socket(socket.AF_INET, kind) as taken:
        taken.bind(("127.0.0.1", 0))
        if transport == "tcp":
            taken.listen()
        port = taken.getsockname()[1]
        me = " ".join(psutil.Process().cmdline())
        me = me if len(me) <= 60 else me[:59] + "…"
        expected = f"port {port}/{transport} is taken by {me} (pid {os.getpid()}): use another"
        assert complaint(port, "127.0.0.1", transport, "use another") == expected
        assert complaint(port, "0.0.0.0", transport, "use another") == expected


def test_a_free_port_is_none_that_a_connection_gets_by_itself() -> None:
    assert {free_port() in NOT_EPHEMERAL for _ in range(20)} == {True}


def test_where_none_of_those_is_free_the_system_finds_one(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        monkeypatch.setattr("cli.ports.NOT_EPHEMERAL", [port])
        assert free_port() != port


def test_a_free_port_is_no_reason_to_complain() -> None:
    port = free_port(transport="udp")
    assert is_free(port, "127.0.0.1", "udp")
    assert complaint(port, "127.0.0.1", "udp", "") is None
