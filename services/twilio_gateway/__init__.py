"""Twilio Media Streams: puts the caller's frames on the bus and the agent's on the line."""
