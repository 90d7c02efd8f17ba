"""What the model was asked for, and when to ask again. A core without I/O.

Theory of operation. A request to speak may say what is to be said (a greeting, say). That stays with the request
until its response began, and with the response until it ended, so that a response of which nothing can be heard
is asked for again as it was. One that failed is repeated after `RETRY_S` times the failures in a row, and
`FAILED_RESPONSES` of them mean that the model is broken; one that ended without audio and without a tool call is
repeated once. One that the provider refused because of its rate limits waits until it may be asked again
(`rate_limit`), and `LIMITED_RESPONSES` of them in a row mean the same. A planned repetition is dropped when the
caller is answered or another response begins: that one is the answer. A "mhm" that nobody answers changes nothing.
"""

from __future__ import annotations

from collections import deque

from services.ai_session.actions import Action, Fail, NoteTrouble
from services.ai_session.backends.port import ResponseEnded
from services.ai_session.phrases import Told, Wish
from services.ai_session.rate_limit import RateLimit, hint_of, is_limit

FAILED_RESPONSES = 3  # in a row, then the model counts as broken
LIMITED_RESPONSES = 5  # the same, when it was never anything but the provider's rate limits
RETRY_S = 0.5  # before a failed response is tried again, times the failures so far


class Attempts:
    """The requests and living responses of one call. `limit` is its model's, shared with other calls."""

    def __init__(self, limit: RateLimit | None = None) -> None:
        self._limit = limit or RateLimit()
        self._requests: deque[Wish] = deque(maxlen=8)  # requests that have not begun
        self._asked: dict[str, Wish] = {}  # living responses that we asked for -> what they were to be
        self._fruitful: set[str] = set()  # living responses that gave audio or called a tool
        self._retry: tuple[float, Wish] | None = None  # when, and what
        self._failures = 0
        self._limited = 0  # of the failures
        self._was_empty = False  # the last response gave nothing, and was asked for again

    @property
    def is_waiting(self) -> bool:
        """A request has not begun."""
        return bool(self._requests)

    @property
    def is_planned(self) -> bool:
        """The model will be asked again."""
        return self._retry is not None

    def forget(self) -> None:
        """The model connection is gone: nothing that was asked of it will come."""
        self._requests.clear()
        self._asked.clear()
        self._fruitful.clear()
        self._retry = None

    def must_wait(self, wish: Wish, now: float) -> bool:
        """Another call's refusal, or the provider's word, has closed the model: this is asked in its turn, once."""
        if self._limit.is_open(now):
            return False
        self._retry = (self._limit.may_ask_at(now), wish)
        return True

    def requested(self, wish: Wish) -> None:
        """The model is asked to speak."""
        self._requests.append(wish)

    def began(self, response: str, *, asked: bool) -> None:
        """A response began; `asked`: we asked for it."""
        self._retry = None
        if asked:
            self._asked[response] = self._requests.popleft() if self._requests else None

    def gave(self, response: str) -> None:
        """A response gave audio or called a tool."""
        self._fruitful.add(response)

    def spoke(self, response: str) -> None:
        """A response gave audio: whatever failed before, the model works."""
        self._fruitful.add(response)
        self._failures = self._limited = 0
        self._was_empty = False

    def caller_spoke(self, *, is_answered: bool) -> None:
        """The caller began to speak. If that `is_answered`, nothing else has to be; else it may have been a cough."""
        self._was_empty = False
        if is_answered:
            self._retry = None

    def interrupted_ended(self, response: str) -> None:
        """An interrupted response is over: it proves nothing."""
        self._fruitful.discard(response)
        self._asked.pop(response, None)

    def ended(self, event: ResponseEnded, now: float, *, may_repeat: bool) -> tuple[bool, list[Action]]:
        """A response is over. True when it was asked for and gave nothing; the actions, with `Fail` as the last one
        when the model is broken. `may_repeat` says whether another try may be planned.
        """
        fruitful, asked = event.response in self._fruitful, event.response in self._asked
        self._fruitful.discard(event.response)
        wish = self._asked.pop(event.response, None)
        wish = None if isinstance(wish, Told) else wish  # the model knows by now
        actions: list[Action] = []
        delay_s: float | None = None
        if event.status == "failed":
            delay_s = self._failed(event.detail, now)
            actions.append(NoteTrouble("rate_limited" if is_limit(event.detail) else "response_failed", event.detail))
        elif fruitful:
            self._failures = self._limited = 0
            self._was_empty = False
            self._limit.answered(now)
        elif event.status != "cancelled":
            actions.append(NoteTrouble("response_empty", event.detail or event.status))
            delay_s, self._was_empty = None if self._was_empty else RETRY_S, True
        if not fruitful and may_repeat:
            if self._failures >= (LIMITED_RESPONSES if self._limited == self._failures else FAILED_RESPONSES):
                actions.append(Fail(event.detail))
            elif delay_s is not None:
                self._retry = (now + delay_s, wish)
        return asked and not fruitful, actions

    def _failed(self, detail: str, now: float) -> float:
        """Count a failure; how long to wait before the next try."""
        self._failures += 1
        if not is_limit(detail):
            return RETRY_S * self._failures
        self._limited += 1
        self._limit.refused(now, hint_of(detail))
        return self._limit.may_ask_at(now) - now

    def due(self, now: float) -> tuple[bool, Wish]:
        """Whether it is time to ask again, once, and for what."""
        if self._retry is None or now < self._retry[0]:
            return False, None
        wish, self._retry = self._retry[1], None
        return True, wish
