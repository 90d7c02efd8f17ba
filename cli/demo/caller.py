"""The caller of the demo: a softphone that speaks recorded clips when it is its turn, and once when it is not."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from cli import checkout
from cli.demo.call_log import CallLog
from cli.demo.script import CALLEE, STEPS, CallerStep
from cli.errors import CliError
from libs.audio.wav import WavError, read_wav
from libs.contracts.events import AgentText, AgentTurn, CallEnded
from libs.softphone.call import CallOver, CallRejected, PhoneCall
from libs.softphone.phone import Softphone

ANSWER_TIMEOUT_S = 20.0
AGENT_DONE_SILENCE_MS = 700
AGENT_TURN_TIMEOUT_S = 25.0


@dataclass(frozen=True, slots=True)
class Clip:
    """Recorded speech: what is said, and its audio as PCM16LE at 8 kHz."""

    text: str
    pcm: bytes


def read_clips(folder: Path = checkout.CALLER_CLIPS) -> dict[str, Clip]:
    """The clips that the script names, from the folder's index.json.

    Raises:
        CliError: one is missing or cannot be read.
    """
    try:
        index = json.loads((folder / "index.json").read_text("utf-8"))
        return {
            step.clip: Clip(
                text=index[step.clip]["text"], pcm=read_wav((folder / index[step.clip]["file"]).read_bytes()).pcm
            )
            for step in STEPS
        }
    except (OSError, ValueError, KeyError, WavError) as error:
        raise CliError(f"the caller's clips in {folder} cannot be read: {error!r}") from error


class Caller:
    """Places the call and follows the script. `trouble` is called where the script says so (a worker's death)."""

    def __init__(self, log: CallLog, clips: dict[str, Clip], trouble: Callable[[], Awaitable[None]] | None) -> None:
        self._log = log
        self._clips = clips
        self._trouble = trouble

    async def run(self, sip_port: int) -> bytes:
        """The whole call; what was heard, as PCM16LE at 8 kHz.

        Raises:
            CliError: it was not answered, or ended before the script.
        """
        async with await Softphone.open() as phone:
            target = f"sip:{CALLEE}@127.0.0.1:{sip_port}"
            try:
                call = await phone.call(target, timeout_s=ANSWER_TIMEOUT_S)
                await self._agent_done(call, 0)
                for step, following in zip(STEPS, (*STEPS[1:], None), strict=True):
                    await self._say(call, step, following)
            except CallRejected as error:
                raise CliError(f"the call to {target} was not answered: {error}") from error
            except CallOver as error:
                raise CliError(f"the call ended in the middle of the conversation: {error}") from error
            await call.hang_up()
            await self._log.wait_for(CallEnded)
            return bytes(call.heard)

    async def _say(self, call: PhoneCall, step: CallerStep, following: CallerStep | None) -> None:
        """Speak a clip, then wait until it is the caller's turn again, or the moment to interrupt."""
        mark = len(self._log.events)
        await call.play(self._clips[step.clip].pcm).wait()
        interrupts_after_ms = following.interrupts_after_ms if following else None
        if interrupts_after_ms is not None:
            await self._into_answer(call, mark, interrupts_after_ms)
            return
        if step.trouble_after_ms is not None and self._trouble is not None:
            await self._into_answer(call, mark, step.trouble_after_ms)
            mark = len(self._log.events)
            await self._trouble()
        await self._agent_done(call, mark)

    async def _into_answer(self, call: PhoneCall, mark: int, ms: int) -> None:
        await self._log.wait_for(AgentText, mark, AGENT_TURN_TIMEOUT_S)
        await call.wait_for_speech()
        await asyncio.sleep(ms / 1000)  # a caller's patience, not a wait for something

    async def _agent_done(self, call: PhoneCall, mark: int) -> None:
        """The agent has said something since `mark`, and nothing is heard any more."""

        def is_answer(turn: AgentTurn) -> bool:  # the turn that our words cut short is none
            return turn.heard_ms > 0 and not turn.interrupted

        await self._log.wait_for(AgentTurn, mark, AGENT_TURN_TIMEOUT_S, where=is_answer)
        await call.wait_for_silence(AGENT_DONE_SILENCE_MS, timeout_s=AGENT_TURN_TIMEOUT_S)
