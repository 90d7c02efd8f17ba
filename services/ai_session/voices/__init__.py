"""Voices: text to speech for the pipeline, fillers and announcements; see `port`."""
