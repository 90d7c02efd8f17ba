"""The metrics of the catalogue's tools and of the tools that are declared beside it."""

from __future__ import annotations

from libs.runtime.metrics import counter, gauge, one_of

REQUESTS = counter(
    "callbus_catalog_requests_total",
    "Tool calls and queries by their end",
    end=one_of("answered", "answered_with_error", "too_late", "unavailable", "defect", "malformed", "query"),
)
ANSWERS = counter(
    "callbus_catalog_answers_total",
    "Orders that were refused, asked for again, or changed at the same time",
    kind=one_of("refused", "repeated", "raced"),
)
DECLARED = counter(
    "callbus_declared_tool_calls_total",
    "Calls of tools that are declared in a file, over HTTP or at an MCP server",
    end=one_of(
        "http_answered",
        "http_failed",
        "http_refused",
        "http_too_late",
        "mcp_answered",
        "mcp_failed",
        "mcp_too_late",
        "mcp_lost",
        "mcp_unusable",
        "malformed",
        "too_late",
        "defect",
    ),
)
PRODUCTS = gauge("callbus_catalog_products", "Products on sale")
