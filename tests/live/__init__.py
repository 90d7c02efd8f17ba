"""Opt-in checks of what callbus assumes of the real API: `python -m tests.live`. They cost money, a few cents."""
