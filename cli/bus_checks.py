"""Checks over the bus for `callbus doctor`: its clock, and recorders where agents want recordings."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from datetime import UTC, datetime

import nats.errors

from cli.findings import Finding, Site
from libs.contracts import subjects
from libs.contracts.agent import AgentConfig
from libs.contracts.config import ConfigDocument, RouteConfig
from libs.contracts.model import SCHEMA_VERSION

CLOCK_S = 0.5  # events of several machines would stand in the wrong order
TIMEOUT_S = 2.0


async def check_clock(site: Site) -> list[Finding]:
    """The bus server's clock and ours agree."""
    asked_at = time.time()
    info = await site.client.request(f"$JS.API.STREAM.INFO.{subjects.EVENTS_STREAM}", b"", timeout=TIMEOUT_S)
    answered_at = time.time()
    told = json.loads(info.data).get("ts")
    if not isinstance(told, str):  # no stream (told elsewhere), or a server older than 2.10
        return []
    return clock_finding(_seconds(told), asked_at, answered_at)


def clock_finding(theirs_s: float, asked_at_s: float, answered_at_s: float) -> list[Finding]:
    """Their clock, somewhere between our asking and their answer (seconds since the epoch)."""
    off_s = 0.0
    if theirs_s < asked_at_s:
        off_s = theirs_s - asked_at_s
    elif theirs_s > answered_at_s:
        off_s = theirs_s - answered_at_s
    if abs(off_s) <= CLOCK_S:
        return [Finding("clock", "ok", "the bus server's clock and ours agree")]
    how = "ahead of" if off_s > 0 else "behind"
    text = f"the bus server's clock is {abs(off_s):.1f} s {how} ours"
    return [Finding("clock", "fail", text, "synchronise both machines by NTP (chrony, `timedatectl set-ntp true`)")]


def _seconds(text: str) -> float:
    """RFC 3339 with nanoseconds, which `fromisoformat` takes only cut."""
    head, _, fraction = text.rstrip("Z").partition(".")
    return datetime.fromisoformat(head).replace(tzinfo=UTC).timestamp() + float(f"0.{fraction or 0}")


async def recorder_findings(site: Site, documents: Iterable[ConfigDocument]) -> list[Finding]:
    """A recorder runs where a published agent or route wants one."""
    wanting = [
        f"agent {document.name}" if isinstance(document, AgentConfig) else f"route {document.name} (voicemail)"
        for document in documents
        if _wants_recorder(document)
    ]
    try:
        await site.client.request(subjects.rpc("recorder", "read"), b"{}", timeout=TIMEOUT_S)
    except nats.errors.NoRespondersError:
        if not wanting:
            return []  # nobody misses it
        text = f"no recorder runs, and one is wanted by {', '.join(wanting)}"
        return [Finding("recorder", "fail", text, "start the recorder, or set `recording: off` in these agents")]
    except nats.errors.TimeoutError:
        return [Finding("recorder", "fail", "the recorder does not answer", "read var/log/recorder.log")]
    return [Finding("recorder", "ok", "a recorder runs")]


def _wants_recorder(document: ConfigDocument) -> bool:
    if isinstance(document, AgentConfig):
        return document.recording != "off"
    if isinstance(document, RouteConfig):
        after_hours = document.after_hours
        return "voicemail" in (document.fallback.kind, after_hours.kind if after_hours is not None else "")
    return False


def age_findings(documents: Iterable[ConfigDocument]) -> list[Finding]:
    """Documents that an older or a newer callbus published."""
    made = []
    for document in documents:
        if document.schema_version == SCHEMA_VERSION:
            continue
        age = "an older" if document.schema_version < SCHEMA_VERSION else "a newer"
        text = f"{document.kind} {document.name} was published by {age} callbus (version {document.schema_version})"
        remedy = "`callbus apply` its file again" if document.schema_version < SCHEMA_VERSION else "update callbus here"
        made.append(Finding("configuration", "warn", text, remedy))
    return made
