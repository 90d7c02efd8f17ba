"""The command line's way to the bus: one plain connection, queries, readable errors."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from socket import gaierror
from typing import Any

import nats.errors
from nats.aio.client import Client
from nats.js.errors import NotFoundError, ServiceUnavailableError
from pydantic import ValidationError

from cli.errors import CliError, NotRunning
from cli.settings import CliSettings
from cli.state import running
from libs.contracts import subjects
from libs.contracts.rpc import RpcReply, RpcRequest

QUERY_TIMEOUT_S = 5.0
CONNECT_TIMEOUT_S = 2


def bus_address(given: str | None, settings: CliSettings) -> str:
    """`--nats`, else NATS_URL, else the running `up`'s.

    Raises:
        NotRunning: none of them.
    """
    if given or settings.nats_url:
        return given or settings.nats_url or ""
    state = running(settings.state_file)
    if state is None:
        raise NotRunning
    return state.nats_url


def worth_waiting(given: str | None, settings: CliSettings) -> Callable[[], bool]:
    """Whether a bus that went away may come back: one that was named, or that of an `up` which is alive."""
    named = bool(given or settings.nats_url)
    return lambda: named or running(settings.state_file) is not None


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[Client]:
    """A connection for one command.

    Raises:
        NotRunning: nothing answers there, or it refuses us.
        CliError: the user may not do what was asked for.
    """

    said: list[Exception] = []

    async def problems(error: Exception) -> None:
        said.append(error)  # what is raised in the end says less: "no servers available"

    client = Client()
    try:
        await client.connect(
            url,
            name="callbus-cli",
            connect_timeout=CONNECT_TIMEOUT_S,
            allow_reconnect=False,
            max_reconnect_attempts=1,  # without a limit the first connection is tried for ever
            reconnect_time_wait=0,
            error_cb=problems,
        )
    except (OSError, nats.errors.Error) as error:
        await client.close()  # a connection that was made, and refused
        raise _refused(url, said[-1] if said else error) from error
    except ValueError as error:  # `nats://host:port`
        raise CliError(f"{_shown(url)} is not the address of a bus (nats://HOST:PORT): {error}") from error
    try:
        yield client
    except (CliError, nats.errors.Error):
        if (denied := _denied(said)) is not None:  # what came of it is silence: "did not answer in time"
            raise CliError(
                f"the bus does not let this user do it ({denied}): name another in --nats (NATS_URL)"
            ) from None
        raise
    finally:
        await client.close()


def _denied(said: list[Exception]) -> str | None:
    return next(
        (str(error).removeprefix("nats: ") for error in said if "permissions violation" in str(error).lower()), None
    )


def _refused(url: str, why: Exception) -> NotRunning:
    if "authorization" in str(why).lower():
        return NotRunning(f"the bus at {_shown(url)} refuses the user or the password: check --nats (NATS_URL)")
    if isinstance(why, ConnectionResetError | BrokenPipeError | nats.errors.UnexpectedEOF):
        # a server that refuses somebody says so and hangs up, and its reset may overtake its words
        return NotRunning(
            f"the bus at {_shown(url)} refuses us and hangs up: check user and password in --nats (NATS_URL)"
        )
    return NotRunning(f"nothing answers at {_shown(url)} ({_reason(why)}): check --nats (NATS_URL)")


def _reason(error: Exception) -> str:
    if isinstance(error, gaierror):
        return str(error.strerror)
    if isinstance(error, OSError) and error.errno is not None:  # asyncio's own text repeats the address
        return os.strerror(error.errno)
    return "no answer in time" if isinstance(error, TimeoutError) else str(error) or type(error).__name__


def _shown(url: str) -> str:
    """Without user and password."""
    scheme, separator, rest = url.rpartition("://")
    return scheme + separator + rest.rpartition("@")[2]


def explained(error: nats.errors.Error) -> str:
    """What a client's error means for the person in front of it."""
    if isinstance(error, ServiceUnavailableError | nats.errors.NoRespondersError):
        return "this bus has no JetStream, which callbus needs: start nats-server with deploy/nats/nats.conf"
    if isinstance(error, nats.errors.TimeoutError):
        return "the bus did not answer in time"
    return f"the bus refused: {str(error) or type(error).__name__}"


async def keys_of(client: Client, bucket: str) -> list[str]:
    """The keys of a KV bucket, sorted; none where there is no such bucket. A key may have gone by the time it is read.

    Not the client's own `keys()`: its watcher may take a bucket for empty whose entries are on their way.
    """
    prefix = f"$KV.{bucket}."
    try:
        info = await client.jetstream().stream_info(f"KV_{bucket}", subjects_filter=f"{prefix}>")
    except NotFoundError:
        return []
    return sorted(subject.removeprefix(prefix) for subject in info.state.subjects or {})


async def query(client: Client, service: str, verb: str, **parameters: Any) -> Any:
    """Ask a service; the `data` of its reply.

    Raises:
        CliError: the service does not run, does not answer, or says no.
    """
    request = RpcRequest(parameters={key: value for key, value in parameters.items() if value is not None})
    body = request.to_json()
    if len(body) > client.max_payload:  # measured as it is sent: quotes and umlauts of a file take more room here
        raise CliError(
            f"too large for the bus: {len(body)} bytes as a request, and it takes {client.max_payload} "
            "(max_payload in deploy/nats/nats.conf)"
        )
    try:
        reply = await client.request(subjects.rpc(service, verb), body, timeout=QUERY_TIMEOUT_S)
        answer = RpcReply.model_validate_json(reply.data)
    except nats.errors.NoRespondersError:
        raise CliError(f"{service} does not run: look at `callbus up`'s table and var/log/{service}.log") from None
    except nats.errors.TimeoutError:
        raise CliError(f"{service} did not answer within {QUERY_TIMEOUT_S:g} s") from None
    except ValidationError as error:
        raise CliError(f"{service} sent an answer that cannot be read: {error.errors()[0]['msg']}") from error
    if not answer.ok:
        raise CliError(f"{service}: {answer.error}")
    return answer.data
