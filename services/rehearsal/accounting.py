"""Token usage and rate limits as the Realtime API reports them."""

from __future__ import annotations

from dataclasses import dataclass

from services.rehearsal.conversation import Conversation
from services.rehearsal.outputs import Frame
from services.rehearsal.responses import Usage

_INPUT_MS_PER_TOKEN = 100
_CHARACTERS_PER_TOKEN = 4
_TOKENS_PER_MINUTE = 200_000
_REQUESTS_PER_MINUTE = 1000


@dataclass(slots=True)
class Accounting:
    """Counts one session's tokens. The whole conversation is sent again for every response, which is why
    what the last response had already seen is reported as cached (and is part of the input)."""

    _seen_text: int = 0
    _seen_audio: int = 0
    _spent: int = 0
    _requests: int = 0

    def usage(self, conversation: Conversation, instructions: str, made: Usage) -> Frame:
        """``response.usage`` for what a response read and made."""
        audio = round(
            sum(i.audio_ms if i.role == "user" else i.heard_ms for i in conversation.items) / _INPUT_MS_PER_TOKEN
        )
        characters = len(instructions) + sum(len(i.text) for i in conversation.items if not i.audio_ms)
        text = characters // _CHARACTERS_PER_TOKEN
        cached_text, cached_audio = min(self._seen_text, text), min(self._seen_audio, audio)
        self._seen_text, self._seen_audio = text, audio
        output = made.text_tokens + made.audio_tokens
        self._spent += text + audio + output
        return {
            "total_tokens": text + audio + output,
            "input_tokens": text + audio,
            "output_tokens": output,
            "input_token_details": {
                "text_tokens": text,
                "audio_tokens": audio,
                "image_tokens": 0,
                "cached_tokens": cached_text + cached_audio,
                "cached_tokens_details": {
                    "text_tokens": cached_text,
                    "audio_tokens": cached_audio,
                    "image_tokens": 0,
                },
            },
            "output_token_details": {"text_tokens": made.text_tokens, "audio_tokens": made.audio_tokens},
        }

    def rate_limits(self) -> Frame:
        """A ``rate_limits.updated`` event; limits reserve nothing and never run out."""
        self._requests += 1
        return {
            "type": "rate_limits.updated",
            "rate_limits": [
                _limit("requests", _REQUESTS_PER_MINUTE, self._requests),
                _limit("tokens", _TOKENS_PER_MINUTE, self._spent),
            ],
        }


def transcription_usage(audio_ms: float, text: str) -> Frame:
    """``usage`` of a completed input transcription."""
    audio, output = round(audio_ms / _INPUT_MS_PER_TOKEN), max(1, len(text) // _CHARACTERS_PER_TOKEN)
    return {
        "type": "tokens",
        "total_tokens": audio + output,
        "input_tokens": audio,
        "output_tokens": output,
        "input_token_details": {"text_tokens": 0, "audio_tokens": audio},
    }


def _limit(name: str, limit: int, used: int) -> Frame:
    remaining = max(0, limit - used)
    return {
        "name": name,
        "limit": limit,
        "remaining": remaining,
        "reset_seconds": round(60 * (limit - remaining) / limit, 3),
    }
