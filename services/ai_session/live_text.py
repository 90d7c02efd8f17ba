"""Partial transcripts of both sides, for whoever follows the call live. A core without I/O.

It keeps what was said so far whether somebody watches or not, so that a watcher who comes in the middle of a sentence
reads it from its beginning; a message is made for a watcher alone. `LiveTranscript` is the shell that publishes.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Literal

from libs.contracts import subjects
from libs.contracts.live import MOST_CHARACTERS, PARTIAL, PartialTranscript
from libs.contracts.offer import Offer
from services.ai_session.backends.port import BackendEvent, CallerTextDelta, SpeechStarted, TextDelta, TextEnded


class LiveText:
    """One per call and epoch. `note` takes every event of the backend."""

    def __init__(self, offer: Offer) -> None:
        self._org, self._call, self._epoch = offer.org, offer.call, offer.epoch
        self._caller = ("", "")  # item, text so far
        self._agent = ("", "")

    def note(self, event: BackendEvent, at: datetime, *, watched: bool) -> PartialTranscript | None:
        """What is to be told because of this event: nothing while nobody watches."""
        match event:
            case CallerTextDelta(item, text):
                self._caller = _more(self._caller, item, text)
                return self._told("caller", self._caller, at, watched)
            case SpeechStarted(item):  # there will be words: a watcher sees that the caller speaks
                self._caller = (item, "")
                return self._told("caller", self._caller, at, watched)
            case TextDelta(_, item, _, text):
                self._agent = _more(self._agent, item, text)
                return self._told("agent", self._agent, at, watched)
            case TextEnded(_, item, _, text) if text:
                self._agent = (item, text[-MOST_CHARACTERS:])
                return self._told("agent", self._agent, at, watched)
        return None

    def _told(
        self, speaker: Literal["caller", "agent"], said: tuple[str, str], at: datetime, watched: bool
    ) -> PartialTranscript | None:
        if not watched:
            return None
        item, text = said
        return PartialTranscript(
            org=self._org, call=self._call, epoch=self._epoch, at=at, speaker=speaker, item=item, text=text.strip()
        )


def _more(said: tuple[str, str], item: str, text: str) -> tuple[str, str]:
    before = said[1] if said[0] == item else ""
    return item, (before + text)[-MOST_CHARACTERS:]


class LiveTranscript:
    """`LiveText` on the bus: partials go where frames go, so that none waits while the bus is away."""

    def __init__(self, offer: Offer, send: Callable[[str, bytes], object]) -> None:
        self._text = LiveText(offer)
        self._send, self._subject = send, subjects.live(offer.org, offer.call, PARTIAL)

    def note(self, event: BackendEvent, *, watched: bool) -> None:
        """Take an event of the backend; publish what a watcher should see."""
        partial = self._text.note(event, datetime.now(UTC), watched=watched)
        if partial is not None:
            self._send(self._subject, partial.to_json())
