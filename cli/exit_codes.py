"""Exit codes of `callbus call`: one for each way a call can end that a script may want to tell apart."""

from __future__ import annotations

from enum import IntEnum

from libs.contracts.termination import Reason


class ExitCode(IntEnum):
    """What `$?` is afterwards. 2 is the shell's and Typer's code for a wrong option; 10 and above are about calls."""

    SUCCESS = 0
    ERROR = 1
    USAGE = 2
    NOT_RUNNING = 3
    BUSY = 10
    NO_ANSWER = 11
    DECLINED = 12
    NUMBER_INVALID = 13
    NOT_ALLOWED = 14
    CANCELLED = 15
    TRUNK_FAILED = 20
    NOT_REGISTERED = 21
    NO_MEDIA = 22
    NO_AGENT = 30
    MODEL_FAILED = 31
    INTERNAL = 40
    INTERRUPTED = 130


MEANING: dict[ExitCode, str] = {
    ExitCode.SUCCESS: "the call came to a proper end",
    ExitCode.ERROR: "the command could not do its work; the sentence says why",
    ExitCode.USAGE: "an option or argument is wrong",
    ExitCode.NOT_RUNNING: "no callbus runs, or nothing answers at the bus that was named",
    ExitCode.BUSY: "the callee is busy",
    ExitCode.NO_ANSWER: "nobody answered in time",
    ExitCode.DECLINED: "the callee declined",
    ExitCode.NUMBER_INVALID: "there is no such number",
    ExitCode.NOT_ALLOWED: "this number may not be called, or too many calls were placed",
    ExitCode.CANCELLED: "given up before it was answered",
    ExitCode.TRUNK_FAILED: "the trunk refused or failed",
    ExitCode.NOT_REGISTERED: "no trunk was registered, or found, within --reg-timeout",
    ExitCode.NO_MEDIA: "both sides could not agree on media, or the audio stopped",
    ExitCode.NO_AGENT: "no agent, or no worker was there to take the call",
    ExitCode.MODEL_FAILED: "the model refused, failed or could not be reached",
    ExitCode.INTERNAL: "a defect, or nobody was left to say how it ended",
    ExitCode.INTERRUPTED: "left by Ctrl-C before the call had ended",
}

CODE_OF: dict[Reason, ExitCode] = {
    Reason.CALLER_HUNG_UP: ExitCode.SUCCESS,
    Reason.CALLEE_HUNG_UP: ExitCode.SUCCESS,
    Reason.AGENT_HUNG_UP: ExitCode.SUCCESS,
    Reason.OPERATOR_HUNG_UP: ExitCode.SUCCESS,
    Reason.MAX_DURATION: ExitCode.SUCCESS,
    Reason.TRANSFERRED: ExitCode.SUCCESS,
    Reason.FALLBACK_PLAYED: ExitCode.SUCCESS,
    Reason.ANSWERING_MACHINE: ExitCode.SUCCESS,
    Reason.CALLER_SILENT: ExitCode.SUCCESS,
    Reason.CALLER_CANCELLED: ExitCode.CANCELLED,
    Reason.NO_COMMON_CODEC: ExitCode.NO_MEDIA,
    Reason.MALFORMED_OFFER: ExitCode.NO_MEDIA,
    Reason.NO_ACK: ExitCode.TRUNK_FAILED,
    Reason.RTP_TIMEOUT: ExitCode.NO_MEDIA,
    Reason.CALLEE_BUSY: ExitCode.BUSY,
    Reason.CALLEE_NO_ANSWER: ExitCode.NO_ANSWER,
    Reason.CALLEE_DECLINED: ExitCode.DECLINED,
    Reason.NUMBER_INVALID: ExitCode.NUMBER_INVALID,
    Reason.NUMBER_NOT_ALLOWED: ExitCode.NOT_ALLOWED,
    Reason.NOT_AUTHENTICATED: ExitCode.NOT_ALLOWED,
    Reason.OPERATOR_DECLINED: ExitCode.DECLINED,
    Reason.NOT_ACCEPTED: ExitCode.NO_ANSWER,
    Reason.OUTSIDE_HOURS: ExitCode.NOT_ALLOWED,
    Reason.NO_ROUTE: ExitCode.NO_AGENT,
    Reason.UNKNOWN_AGENT: ExitCode.NO_AGENT,
    Reason.NO_WORKER: ExitCode.NO_AGENT,
    Reason.AT_CAPACITY: ExitCode.NO_AGENT,
    Reason.TOO_MANY_ATTEMPTS: ExitCode.NOT_ALLOWED,
    Reason.BUDGET_SPENT: ExitCode.NO_AGENT,
    Reason.DRAINING: ExitCode.NO_AGENT,
    Reason.NOT_READY: ExitCode.NO_AGENT,
    Reason.WORKER_LOST: ExitCode.NO_AGENT,
    Reason.GATEWAY_LOST: ExitCode.INTERNAL,
    Reason.INTERNAL_ERROR: ExitCode.INTERNAL,
    Reason.MODEL_REFUSED: ExitCode.MODEL_FAILED,
    Reason.MODEL_UNREACHABLE: ExitCode.MODEL_FAILED,
    Reason.MODEL_FAILED: ExitCode.MODEL_FAILED,
    Reason.TRUNK_FAILED: ExitCode.TRUNK_FAILED,
    Reason.LOST: ExitCode.INTERNAL,
}


def table_for_help() -> str:
    """The codes for `callbus call --help`; Typer makes a line of each paragraph of an epilog."""
    return "\n\n".join(["Exit codes:", *(f"{code.value:>4} {MEANING[code]}" for code in ExitCode)])


def table_for_docs() -> str:
    """The same as a Markdown table with the reasons behind each code; docs/cli.md holds it."""
    lines = ["| code | meaning | reasons of the termination |", "|---|---|---|"]
    for code in ExitCode:
        reasons = ", ".join(f"`{reason}`" for reason, its in CODE_OF.items() if its is code)
        lines.append(f"| {code.value} | {MEANING[code]} | {reasons} |")
    return "\n".join(lines)
