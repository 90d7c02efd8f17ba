"""Structured logs with the call id bound once per task. Neither audio nor secrets ever go into a log line."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import structlog
from structlog.typing import EventDict, FilteringBoundLogger, Processor, WrappedLogger

_SECRET_NAMES = ("password", "secret", "api_key", "token", "authorization")
_SECRETS = (
    (re.compile(r"(://[^/\s:@]*:)[^@\s/]+@"), r"\1***@"),  # user:password@ of a URL
    (re.compile(r"\b([Bb]earer|Basic)\s+[\w+/=.~-]{8,}"), r"\1 ***"),  # Authorization headers
    (re.compile(r"\bsk[-_][\w-]{12,}"), "sk-***"),  # keys of OpenAI and ElevenLabs
    (re.compile(r"[A-Za-z0-9+/]{200,}={0,2}"), "<base64>"),  # audio: 20 ms of G.711 are 216 characters
)


def without_secrets(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """The last look at a line: bytes become their length, what is named or looks like a secret becomes stars."""
    for key, value in event.items():
        event[key] = _shown(key, value)
    return event


def _shown(key: str, value: object) -> object:
    if isinstance(value, bytes | bytearray | memoryview):
        return f"<{len(value)} bytes>"
    if value and any(part in key.lower() for part in _SECRET_NAMES):
        return "***"
    if isinstance(value, dict):
        return {name: _shown(str(name), inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_shown("", inner) for inner in value]
    if isinstance(value, str):
        for pattern, instead in _SECRETS:
            value = pattern.sub(instead, value)
    return value


def configure_logging(service: str, level: str = "INFO", fmt: str = "auto") -> None:
    """Set up structlog for this process; lines go to standard error."""
    text = fmt == "text" or (fmt == "auto" and sys.stderr.isatty())
    # The default exception formatter blocks for a second or two: long enough to miss heartbeats.
    console = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    renderer: Processor = console if text else structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *([] if text else [structlog.processors.format_exc_info]),
            without_secrets,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(service=service)
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s")


def get_logger() -> FilteringBoundLogger:
    """The logger; call `log.info("what happened", key=value)`."""
    return cast(FilteringBoundLogger, structlog.get_logger())


@contextmanager
def bound(**fields: object) -> Iterator[None]:
    """Bind fields (the call id, say) to all log lines of this task."""
    with structlog.contextvars.bound_contextvars(**fields):
        yield
