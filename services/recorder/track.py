"""The recorder's two channels: `libs.audio.stereo`, which taps share."""

from __future__ import annotations

from libs.audio.stereo import StereoTrack

__all__ = ["StereoTrack"]
