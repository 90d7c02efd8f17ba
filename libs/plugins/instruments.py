"""The metrics of tools that are plug-ins, wherever they run."""

from __future__ import annotations

from libs.runtime.metrics import counter, one_of

CALLS = counter(
    "callbus_plugin_calls_total",
    "Calls of plug-ins by their end, and plug-ins that did not start",
    end=one_of(
        "answered",
        "refused",
        "repeated",
        "too_late",
        "crashed",
        "unusable",
        "busy",
        "stuck",
        "malformed",
        "defect",
        "not_started",
    ),
)
