"""Keys of a call's media, as negotiations bring and change them (RFC 4568, RFC 3711)."""

from __future__ import annotations

from libs.audio.srtp import SrtpReceiver, SrtpSender
from libs.sip.sdes import CryptoKey, SrtpKeys


class MediaKeys:
    """Both directions of one session; None where it is in the clear."""

    def __init__(self) -> None:
        self.receiver: SrtpReceiver | None = None
        self.sender: SrtpSender | None = None

    def change(self, keys: SrtpKeys | None, before: SrtpKeys | None) -> None:
        """A key that stays keeps its roll-over counter. With a new one it starts at 0, as other stacks have it.

        RFC 3711 §3.3.1 would carry it over; the two differ once a stream has had 65,536 packets, after 21.8 minutes.
        """
        if keys is None:
            self.receiver = self.sender = None
            return
        if before is None or _differ(before.ours, keys.ours):
            self.sender = SrtpSender(keys.ours.suite, keys.ours.master)
        if before is None or _differ(before.theirs, keys.theirs):
            self.receiver = SrtpReceiver(keys.theirs.suite, keys.theirs.master)


def _differ(one: CryptoKey, other: CryptoKey) -> bool:
    return (one.suite, one.master) != (other.suite, other.master)
