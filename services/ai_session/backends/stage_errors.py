"""What went wrong at a stage of the pipeline, in the terms in which it is decided what to do about it.

Reference: the API's "Error codes". A refused key, a used-up quota and an unknown model are final for the call; rate
limits and a server's own faults may be over in a moment; what the request is to blame for will not get better.
"""

from __future__ import annotations

from typing import Literal

import httpx2  # what the openai package speaks HTTP with; its errors come through while a body is read
import openai

from services.ai_session.backends.chat_reply import BrokenReplyError
from services.ai_session.rate_limit import hint_of_headers
from services.ai_session.voices.port import VoiceError

Stage = Literal["transcription", "chat", "speech"]
StageFault = (
    openai.APIError, httpx2.HTTPError, httpx2.StreamError, TimeoutError, BrokenReplyError, UnicodeDecodeError
)  # fmt: skip
"""What a request to an endpoint may raise, and what its stream may."""

_FINAL = frozenset(
    {"insufficient_quota", "invalid_api_key", "account_deactivated", "billing_hard_limit_reached", "model_not_found"}
    | {"quota_exceeded", "voice_not_found"}  # ElevenLabs
)
LONGEST_REASON = 300  # characters


class StageError(Exception):
    """A stage failed. `retry`: another attempt may succeed; `final`: none ever will, with this configuration."""

    def __init__(
        self, code: str, sentence: str, *, retry: bool, final: bool = False, retry_after_s: float | None = None
    ) -> None:
        super().__init__(sentence)
        self.code, self.retry, self.final, self.retry_after_s = code, retry, final, retry_after_s


def stage_error(stage: Stage, error: Exception) -> StageError:
    """An exception of a request in the terms of the pipeline."""
    match error:
        case openai.APIStatusError():
            return _refused(stage, error)
        case openai.APITimeoutError() | TimeoutError():
            return StageError("timeout", f"the {stage} endpoint sent nothing in time", retry=True)
        case openai.APIConnectionError():
            return StageError("unreachable", f"the {stage} endpoint was not reached: {error}", retry=True)
        case openai.APIError():  # an error object within the stream
            code = str(error.code or "error")
            what = f"the {stage} endpoint broke off: {error.message}"
            return StageError(code, what, retry=code not in _FINAL, final=code in _FINAL)
        case BrokenReplyError():
            return StageError("malformed", str(error), retry=True)
        case ValueError():  # JSON or UTF-8 that is none
            return StageError("malformed", f"the {stage} endpoint sent what is no JSON", retry=True)
        case _:
            return StageError("broken", f"the {stage} endpoint broke off: {error or type(error).__name__}", retry=True)


def voice_failed(error: VoiceError) -> StageError:
    """A voice's error; its port names the provider's code."""
    final = error.code in _FINAL or error.code in ("http_401", "http_403")  # who names no code
    return StageError(error.code, str(error), retry=error.retry and not final, final=final)


def _refused(stage: Stage, error: openai.APIStatusError) -> StageError:
    status = error.status_code
    named = isinstance(error.code, str) and not error.code.isdigit()  # vLLM repeats the status there
    code = str(error.code) if named else f"http_{status}"
    why = error.message[:LONGEST_REASON]  # a proxy answers with a whole page
    if status in (401, 403) or code in _FINAL or (status == 404 and not named):
        what = f"the {stage} endpoint refused (HTTP {status}): {why}"
        return StageError(code, what, retry=False, final=True)
    after_s = hint_of_headers(error.response.headers)
    if status in (408, 409, 429):
        if status == 429 and not named:
            code = "rate_limited"
        hint = "" if after_s is None else f"; try again in {after_s:g}s"  # read again by `rate_limit`
        return StageError(
            code, f"the {stage} endpoint is busy (HTTP {status}){hint}", retry=True, retry_after_s=after_s
        )
    if status < 500:
        return StageError(code, f"the {stage} endpoint refused the request: {why}", retry=False)
    return StageError(code, f"the {stage} endpoint failed (HTTP {status})", retry=True, retry_after_s=after_s)


class Patience:
    """How often and how long a stage is tried again. `pauses_s` are the pauses without advice of the server."""

    def __init__(self, pauses_s: tuple[float, ...], longest_s: float) -> None:
        self._pauses_s = list(pauses_s)
        self._longest_s = longest_s

    def pause_s(self, error: StageError) -> float | None:
        """How long to wait before the next attempt; None when there is none."""
        if not error.retry or not self._pauses_s:
            return None
        pause_s = max(self._pauses_s.pop(0), error.retry_after_s or 0.0)
        return pause_s if pause_s <= self._longest_s else None
