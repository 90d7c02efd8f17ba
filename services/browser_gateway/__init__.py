"""Calls from a browser: PCM over WebSocket, for test calls and for a person who takes a call over."""
