"""Messages out of a byte stream: SIP over TCP and TLS without I/O (RFC 3261 §18.3, RFC 5626 §3.5.1).

A message is its header lines, an empty line, and as many bytes of body as Content-Length says. Empty lines before a
message are skipped (§7.5); two of them are a ping of the side that opened the connection, one is the pong (RFC 5626).
Every byte is looked at once, whatever pieces the stream arrives in, and no more than one message is ever kept.
"""

from __future__ import annotations

import re

PING = b"\r\n\r\n"
PONG = b"\r\n"
MAX_MESSAGE_BYTES = 16_384

_HEAD_END = re.compile(rb"\n\r?\n")
# the value may stand on a line of its own (folding, RFC 3261 §7.3.1); `l` is the compact form
_LENGTH = re.compile(rb"\n(?:content-length|l)[ \t]*:((?:[^\r\n]|\r?\n[ \t])*)", re.IGNORECASE)
_NUMBER = re.compile(rb"[0-9]{1,9}\Z")


class StreamFramer:
    """The reading side of one connection.

    `error` says why the stream cannot be followed any further; the connection is to be closed then, after what the
    last messages are answered with. `is_client` is True where we opened the connection: empty lines are pongs there.
    """

    def __init__(self, is_client: bool = False, max_message_bytes: int = MAX_MESSAGE_BYTES) -> None:
        self.error = ""
        self._is_client = is_client
        self._limit = max_message_bytes
        self._buffer = bytearray()
        self._searched = 0
        self._message_bytes = 0  # of the message whose head is complete, 0 while it is not
        self._blank_lines = 0

    @property
    def buffered_bytes(self) -> int:
        """What has arrived of a message that is not complete."""
        return len(self._buffer)

    def feed(self, data: bytes) -> list[bytes]:
        """Take what arrived; gives complete messages, and PING for each ping, in order.

        A message with a Content-Length that cannot be read is given without its body, for a 400, and is the last one.
        """
        found: list[bytes] = []
        if not self.error:
            self._buffer += data
            while self._take(found):
                pass
        return found

    def _take(self, found: list[bytes]) -> bool:
        """One message, if it is complete."""
        if not self._message_bytes:
            self._skip_blank_lines(found)
            self._measure(found)
        if not self._message_bytes or len(self._buffer) < self._message_bytes:
            return False
        found.append(bytes(self._buffer[: self._message_bytes]))
        del self._buffer[: self._message_bytes]
        self._searched = self._message_bytes = self._blank_lines = 0
        return True

    def _skip_blank_lines(self, found: list[bytes]) -> None:
        """Empty lines between messages. A bare LF counts, as it does for the parser."""
        if not self._buffer or self._buffer[0] not in b"\r\n":
            return
        rest = self._buffer.lstrip(b"\r\n")
        blank = self._buffer[: len(self._buffer) - len(rest)]
        if not rest and blank.endswith(b"\r"):
            del blank[-1:]  # its LF is on the way
        del self._buffer[: len(blank)]
        lines = self._blank_lines + blank.count(b"\n")
        if not self._is_client:
            found += [PING] * (lines // 2)
        self._blank_lines = lines % 2

    def _measure(self, found: list[bytes]) -> None:
        """Look for the end of the head; with it the length of the message is known."""
        end = _HEAD_END.search(self._buffer, self._searched)
        if end is None:
            self._searched = max(0, len(self._buffer) - 2)
            if len(self._buffer) > self._limit:
                self._fail(f"a message head is longer than {self._limit} bytes")
            return
        head = bytes(self._buffer[: end.end()])
        lengths = {value.strip() for value in _LENGTH.findall(head)}
        if not lengths:
            # §20.14: over a stream it must be there; nobody knows where the next message begins
            self._fail("a message has no Content-Length")
        elif len(lengths) > 1 or not _NUMBER.match(length := lengths.pop()):
            found.append(head)
            self._fail("a Content-Length is not one number")
        elif len(head) + int(length) > self._limit:
            self._fail(f"a message is longer than {self._limit} bytes")
        else:
            self._message_bytes = len(head) + int(length)

    def _fail(self, why: str) -> None:
        self.error = why
        self._buffer.clear()
