"""Structured logs with the call id bound once per task. Neither audio nor secrets ever go into a log line."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import structlog
from structlog.typing import EventDict, FilteringBoundLogger, Processor, WrappedLogger

_SECRET_PARTS = ("password", "secret", "api_key", "token", "authorization")


def _without_secrets(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    for key, value in event.items():
        if isinstance(value, bytes | bytearray | memoryview):
            event[key] = f"<{len(value)} bytes>"
        elif any(part in key.lower() for part in _SECRET_PARTS) and value:
            event[key] = "***"
    return event


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
            _without_secrets,
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
