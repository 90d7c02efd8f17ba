"""Fixtures that several files share; a file that needs another kind of feed or phone has its own."""

from tests.support.calling import feed, phone

__all__ = ["feed", "phone"]
