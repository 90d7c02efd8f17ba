"""Twilio's REST API, as far as calls need it: place one, change one, end one.

Source: Twilio, "Call resource", API version 2010-04-01. Three requests on our own event loop; the client of the
`twilio` package blocks a thread per request, or brings a second HTTP client for its asynchronous face.
"""

from __future__ import annotations

import asyncio
import json
from base64 import b64encode
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import aiohttp

VERSION = "2010-04-01"
TIMEOUT_S = 10.0
REPEAT_AFTER_S = (0.5, 1.5)  # what was not done and may be done yet is asked again; never to place a call
STATUS_EVENTS = ("initiated", "ringing", "answered", "completed")


class TwilioError(Exception):
    """The API said no (`code` is Twilio's, `status` HTTP's), or could not be asked (both 0)."""

    def __init__(self, sentence: str, status: int = 0, code: int = 0) -> None:
        super().__init__(sentence)
        self.status = status
        self.code = code

    @property
    def may_pass(self) -> bool:
        """Whether the same request may be granted a moment later: no answer, too many requests, a defect there."""
        return self.status in (0, 429) or self.status >= 500


class TwilioApi:
    """`username` and `password` are account SID and auth token, or an API key and its secret."""

    def __init__(self, base_url: str, account_sid: str, username: str, password: str) -> None:
        self._calls = f"{base_url.rstrip('/')}/{VERSION}/Accounts/{account_sid}/Calls"
        self._auth = f"Basic {b64encode(f'{username}:{password}'.encode()).decode()}"
        self._session: aiohttp.ClientSession | None = None

    async def create(self, to: str, caller: str, twiml: str, status_url: str, timeout_s: int) -> str:
        """Call a number; once answered, Twilio follows `twiml`. Returns the CallSid.

        Raises:
            TwilioError: the call was not placed.
        """
        form = [("To", to), ("From", caller), ("Twiml", twiml), ("Timeout", str(timeout_s)),
                ("StatusCallback", status_url), ("StatusCallbackMethod", "POST"),
                *(("StatusCallbackEvent", event) for event in STATUS_EVENTS)]  # fmt: skip
        body = await self._post(f"{self._calls}.json", form)
        sid = body.get("sid")
        if not isinstance(sid, str) or not sid:
            raise TwilioError("the answer names no call")
        return sid

    async def update(self, call_sid: str, twiml: str) -> None:
        """Let a live call follow other instructions from now on.

        Raises:
            TwilioError: it was not done, as when the call has ended meanwhile.
        """
        await self._post(f"{self._calls}/{call_sid}.json", [("Twiml", twiml)])

    async def complete(self, call_sid: str) -> None:
        """End a call, whether it rings or talks.

        Raises:
            TwilioError: it was not done, as when the call has ended meanwhile.
        """
        await self._post(f"{self._calls}/{call_sid}.json", [("Status", "completed")])

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()

    async def _post(self, url: str, form: Sequence[tuple[str, str]]) -> dict[str, Any]:
        if self._session is None:
            timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
            self._session = aiohttp.ClientSession(timeout=timeout, headers={"Authorization": self._auth})
        try:
            async with self._session.post(url, data=form) as response:
                text = await response.text()
                status = response.status
        except (aiohttp.ClientError, TimeoutError) as error:
            raise TwilioError(f"Twilio's API cannot be reached: {error or type(error).__name__}") from None
        try:
            body = json.loads(text)
        except (ValueError, RecursionError):
            body = None
        body = body if isinstance(body, dict) else {}
        if status >= 400:
            code = body.get("code")
            sentence = str(body.get("message") or f"Twilio's API answered {status}")
            raise TwilioError(sentence, status, code if isinstance(code, int) else 0)
        return body


async def insist(ask: Callable[[], Awaitable[None]]) -> TwilioError | None:
    """Ask, and ask again where that may help; what the last answer was when it was no."""
    for pause_s in (*REPEAT_AFTER_S, None):
        try:
            await ask()
        except TwilioError as error:
            if pause_s is None or not error.may_pass:
                return error
            await asyncio.sleep(pause_s)
        else:
            return None
    return None
