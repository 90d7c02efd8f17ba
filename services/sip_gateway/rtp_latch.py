"""Symmetric RTP (RFC 4961): whom one stream comes from and goes to. A core without I/O."""

from __future__ import annotations

from collections.abc import Callable


class Latch:
    """We send to where the first valid packet came from, and accept nothing from elsewhere after that.

    `named` is the address in SDP. It may take the stream back once from a source that was there before it (a phone
    behind NAT whose provider joins later); nobody else ever moves a latch. `may_latch` judges other sources' hosts.
    """

    def __init__(self, named: tuple[str, int]) -> None:
        self.named = named
        self.remote = named
        self.is_latched = False
        self._is_settled = False
        self.may_latch: Callable[[str], bool] | None = None

    def accepts(self, source: tuple[str, int]) -> bool:
        """Whether a packet from here may be looked at."""
        if source == self.remote:
            return True
        if source == self.named:
            return not self._is_settled
        return not self.is_latched and (self.may_latch is None or self.may_latch(source[0]))

    def hold(self, source: tuple[str, int]) -> None:
        """A valid packet came from here, which `accepts` allowed."""
        if not self.is_latched or source != self.remote:
            self._is_settled = self.is_latched
            self.is_latched, self.remote = True, source

    def rename(self, named: tuple[str, int]) -> None:
        """A new description names another address: latch anew, unless it stayed."""
        if named != self.named:
            self.named = self.remote = named
            self.is_latched = self._is_settled = False
