"""Spoken text: its sentences, and the names of the clips that hold them."""

from __future__ import annotations

import hashlib
import re
import unicodedata

_SENTENCE_END = re.compile(r"(?<=[.!?…])\s+")


def normalised(text: str) -> str:
    """The key of a clip: Unicode NFC and single spaces."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def clip_name(text: str) -> str:
    """File name of the clip for ``text``: the first 12 hex digits of the SHA-1 of its key."""
    return hashlib.sha1(normalised(text).encode(), usedforsecurity=False).hexdigest()[:12] + ".wav"


def sentences(text: str) -> list[str]:
    """Split after ``.``, ``!`` and ``?``; one clip is one sentence."""
    return [part for part in _SENTENCE_END.split(normalised(text)) if part]
