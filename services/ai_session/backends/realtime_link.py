"""The WebSocket of the Realtime API: where it is, what arrives on it, why an upgrade was refused."""

from __future__ import annotations

import ssl
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol
from urllib.parse import quote

import picows

from services.ai_session.backends.port import BackendError
from services.ai_session.costs import Models
from services.ai_session.settings import is_openai

HANDSHAKE_TIMEOUT_S = 2.0
PING_AFTER_S = 10.0
PONG_WITHIN_S = 10.0
MAX_MESSAGE_BYTES = 32 << 20


class Spares(Protocol):
    """Connections that are kept open for callers who lose theirs."""

    def served(self, model: str) -> None:
        """A call of this model is being served."""

    def adopt(self, model: str, receiver: Receiver) -> float | None:
        """Give `receiver` a kept connection; how old it is in seconds, None when there is none."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where the API is; shared by all calls of the worker."""

    base_url: str
    api_key: str
    model: str
    models: Models
    counters: Counter[str] = field(default_factory=Counter)
    tls: ssl.SSLContext | None = None
    mcp_tokens: Mapping[str, str] = field(default_factory=dict, repr=False)  # by the names that agents use
    session_max_s: float = 3600.0  # how long the server lets a session last, unless it says less
    spares: Spares | None = None

    def url(self, model: str) -> str:
        """The WebSocket address for a model."""
        base = self.base_url.rstrip("/")
        if base.startswith("http"):
            base = "ws" + base[len("http") :]
        return f"{base}/realtime?model={quote(model, safe='')}"


class Receiver(Protocol):
    """Whose connection it is; called from the event loop's data callback, so nothing here waits."""

    behind: bool

    def connected(self, transport: picows.WSTransport) -> None:
        """The upgrade succeeded."""

    def received(self, data: bytes) -> None:
        """A whole message."""

    def closing(self, code: int, reason: str) -> None:
        """The server says goodbye."""

    def disconnected(self) -> None:
        """The connection is gone."""


class Listener(picows.WSListener):
    """Hands whole messages to its receiver, which may be exchanged; fragments are put together, up to a limit."""

    def __init__(self, receiver: Receiver) -> None:
        self.receiver = receiver
        self._fragments: list[bytes] = []
        self._fragments_bytes = 0

    def on_ws_connected(self, transport: picows.WSTransport) -> None:
        self.receiver.connected(transport)

    def on_ws_frame(self, transport: picows.WSTransport, frame: picows.WSFrame) -> None:
        if frame.msg_type is picows.WSMsgType.CLOSE:
            transport.send_close(frame.get_close_code(), frame.get_close_message())
            transport.disconnect()
            self.receiver.closing(int(frame.get_close_code().value), frame.get_close_reason() or "")
            return
        if frame.msg_type in (picows.WSMsgType.PING, picows.WSMsgType.PONG):
            return
        data = frame.get_payload_as_bytes()
        if not frame.fin or self._fragments:
            self._fragments.append(data)
            self._fragments_bytes += len(data)
            if self._fragments_bytes > MAX_MESSAGE_BYTES:
                transport.send_close(picows.WSCloseCode.MESSAGE_TOO_BIG)
                transport.disconnect()
                return
            if not frame.fin:
                return
            data, self._fragments, self._fragments_bytes = b"".join(self._fragments), [], 0
        self.receiver.received(data)

    def on_ws_disconnected(self, transport: picows.WSTransport) -> None:
        self.receiver.disconnected()

    def pause_writing(self) -> None:
        self.receiver.behind = True

    def resume_writing(self) -> None:
        self.receiver.behind = False


async def connect(endpoint: Endpoint, model: str, receiver: Receiver) -> Listener:
    """Open the connection; `receiver` gets the transport and all that comes, until the listener has another one.

    Raises:
        BackendError: the endpoint was not reached, or refused the upgrade.
    """
    if not endpoint.api_key and is_openai(endpoint.base_url):
        raise BackendError("refused", "OPENAI_API_KEY is not set", retry=False)
    try:
        _, listener = await picows.ws_connect(
            lambda: Listener(receiver),
            endpoint.url(model),
            ssl_context=endpoint.tls,
            websocket_handshake_timeout=HANDSHAKE_TIMEOUT_S,
            extra_headers={"Authorization": f"Bearer {endpoint.api_key}"},
            max_redirects=0,
            max_frame_size=MAX_MESSAGE_BYTES,
            enable_auto_ping=True,
            auto_ping_idle_timeout=PING_AFTER_S,
            auto_ping_reply_timeout=PONG_WITHIN_S,
        )
    except picows.WSHandshakeError as error:
        raise refusal(error) from None
    except (OSError, TimeoutError, picows.WSError) as error:
        what = str(error) or type(error).__name__
        raise BackendError("unreachable", f"the model's endpoint was not reached: {what}", retry=True) from None
    assert isinstance(listener, Listener)
    return listener


def refusal(error: picows.WSHandshakeError) -> BackendError:
    """A failed upgrade in the terms of the port: 401 and 403 are final, 429 and 5xx are not."""
    status = int(error.response.status) if error.response is not None else 0
    match status:
        case 401 | 403:
            return BackendError("refused", f"the model's server refused the key (HTTP {status})", retry=False)
        case 0 | 408 | 429:
            pass
        case _ if status < 500:
            return BackendError("refused", f"the model's server refused the session (HTTP {status})", retry=False)
    what = f"HTTP {status}" if status else str(error)
    return BackendError("unreachable", f"the model's server did not open a session: {what}", retry=True)
