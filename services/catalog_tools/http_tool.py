"""Carries declared HTTP tools out: one guarded client for all of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import aiohttp
import jsonschema  # type: ignore[import-untyped]
from referencing import Registry
from referencing.exceptions import Unresolvable

from libs.contracts.external_tools import HttpTool, secrets_of
from libs.contracts.tool import ToolDescription, ToolReply, ToolRequest
from libs.plugins.outcome import failed, too_large
from libs.runtime.log import get_logger
from services.catalog_tools.guard import ForbiddenHostError, Guard, GuardedResolver
from services.catalog_tools.http_request import HttpCall, MissingSecretError, RequestError, answer_of, build

log = get_logger()

MOST_BODY_BYTES = 1_000_000  # read, before a pointer picks its part
_NOTHING_ELSE: Registry[object] = Registry()  # without it a reference in a schema is fetched, also from `file:`


class HttpToolClient:
    """Use it as a context: `async with HttpToolClient(...)`."""

    def __init__(self, guard: Guard, secrets: Mapping[str, str], counters: Counter[str]) -> None:
        self._guard, self._secrets, self._counters = guard, secrets, counters
        self._http: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> HttpToolClient:
        connector = aiohttp.TCPConnector(resolver=GuardedResolver(self._guard), limit=64)
        # Cookies are not kept: the next request may be another caller's, of another organisation.
        self._http = aiohttp.ClientSession(
            connector=connector, cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=True, trust_env=False
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._http is not None:
            await self._http.close()

    async def answer(self, tool: HttpTool, request: ToolRequest) -> ToolReply:
        """Carry one call out; every failure is a reply."""
        try:
            jsonschema.Draft202012Validator(tool.parameters, registry=_NOTHING_ELSE).validate(request.arguments)
            call = build(tool, request, secrets_of(tool.org, self._secrets))
            self._guard.check_literal(call.url)
            status, data = await self._send(call, tool.timeout_ms / 1000)
        except jsonschema.ValidationError as error:
            return self._refused(f"{tool.name}: {str(error.message)[:200]}.")
        except (jsonschema.SchemaError, Unresolvable):
            return self._failed(tool, "its parameters are no JSON Schema")
        except RequestError as error:
            return self._refused(f"{tool.name}: {error}")
        except (MissingSecretError, ForbiddenHostError) as error:
            return self._failed(tool, str(error))
        except TimeoutError:
            self._counters["http_too_late"] += 1
            return failed(f"The tool {tool.name} did not answer in time.")
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return self._failed(tool, problem_of(error))
        if len(data) > MOST_BODY_BYTES:
            return too_large(tool.name, len(data), MOST_BODY_BYTES)
        reply = answer_of(tool, status, data)
        self._counters["http_answered" if reply.ok else "http_failed"] += 1
        if not reply.ok:
            log.warning("a declared tool failed", tool=tool.name, problem=reply.error)
        return reply

    async def _send(self, call: HttpCall, timeout_s: float) -> tuple[int, bytes]:
        if self._http is None:
            raise OSError("the client is closed")
        # Redirects are not followed: they could lead to a host that the document does not name, with its secrets.
        request = self._http.request(
            call.method,
            call.url,
            headers=call.headers,
            data=call.body,
            allow_redirects=False,
            timeout=aiohttp.ClientTimeout(total=timeout_s),
        )
        async with request as response:
            data = bytearray()
            async for part in response.content.iter_chunked(65_536):
                data += part
                if len(data) > MOST_BODY_BYTES:
                    break
            return response.status, bytes(data)

    def _refused(self, sentence: str) -> ToolReply:
        self._counters["http_refused"] += 1
        return failed(sentence)

    def _failed(self, tool: HttpTool, problem: str) -> ToolReply:
        self._counters["http_failed"] += 1
        log.warning("a declared tool failed", tool=tool.name, problem=problem)
        return failed(f"The tool {tool.name} failed.")


def problem_of(error: Exception) -> str:
    """What failed, for the log; without the URL, whose query may hold a secret or a caller's number."""
    match error:
        case aiohttp.InvalidURL():
            return "the URL is not valid"
        case aiohttp.ClientResponseError():  # no HTTP, mostly
            return f"the answer cannot be read (status {error.status})"
    return str(error) or type(error).__name__


def describe(tool: HttpTool) -> ToolDescription:
    """What the model is told of a declared tool."""
    return ToolDescription(
        name=tool.name,
        description=tool.description,
        parameters=tool.parameters,
        idempotent=tool.is_idempotent,
        timeout_ms=tool.timeout_ms + 500,
    )
