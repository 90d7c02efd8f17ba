"""What an agent says to the target of a bridged transfer before the two are joined, at the ear that is to hear it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from libs.audio.tone import waiting_tone
from libs.call_leg.audio import CallAudio
from libs.call_leg.ports import TransferTarget


class Announcement:
    """One per call. `ask` has the agent speak, `done` tells the leg that it was heard.

    The agent's audio is moved over to the target only when the caller has heard what was meant for the caller. A target
    that leaves meanwhile leaves words behind that are not for the caller, who hears the waiting tone instead of them.
    """

    def __init__(self, audio: CallAudio, ask: Callable[[str], None], done: Callable[[], None]) -> None:
        self._audio = audio
        self._ask = ask
        self._done = done
        self._loop = asyncio.get_running_loop()
        self._is_asked = False
        self.target: TransferTarget | None = None

    def begin(self, text: str) -> None:
        """What the agent is saying now is the caller's; the announcement begins behind it."""
        self._is_asked = False
        playout = self._audio.playout
        if playout.is_talking or playout.depth:
            self._audio.when_quiet(lambda: self._loop.call_soon(self._begin_now, text))
        else:
            self._begin_now(text)

    def _begin_now(self, text: str) -> None:
        if self.target is None:  # gone meanwhile, or joined without a word
            return
        self._is_asked = True
        self.target.listen()
        self._audio.when_quiet(lambda: self._loop.call_soon(self._done), more=1)
        self._ask(text)

    def given_up(self) -> None:
        """The target is gone: what is left of the announcement is not for the caller."""
        self.target = None
        if self._is_asked:
            self._audio.hide_announcement(waiting_tone(50 * self._audio.frame_samples))

    def join(self) -> None:
        """Caller and target hear each other from now on."""
        target, self.target = self.target, None
        if target is not None:
            target.join()
