"""A busy port is named with its process."""

import os
import socket
from typing import Literal

import psutil
import pytest

from cli.ports import complaint, free_port, is_free


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


def test_a_free_port_is_kept_for_a_server_that_knows_its_number() -> None:
    port = free_port()
    with socket.socket() as somebody, pytest.raises(OSError, match="in use"):
        somebody.bind(("127.0.0.1", port))
    with socket.create_server(("127.0.0.1", port)):
        assert not is_free(port, "127.0.0.1", "tcp")


def test_a_free_port_is_no_reason_to_complain() -> None:
    port = free_port(transport="udp")
    assert is_free(port, "127.0.0.1", "udp")
    assert complaint(port, "127.0.0.1", "udp", "") is None
