"""HTTP to providers: one client for each endpoint, with connections that outlive the pauses of a conversation."""

from __future__ import annotations

import httpx2  # what the openai package speaks HTTP with
import openai

CONNECT_WITHIN_S = 2.0
KEEP_ALIVE_S = 60.0  # longer than a caller speaks: a handshake before each answer costs 100 ms
MOST_CONNECTIONS = 500


def openai_client(base_url: str, api_key: str) -> openai.AsyncOpenAI:
    """A client for all calls of the worker. It never repeats a request by itself, and who asks bounds the time."""
    limits = httpx2.Limits(
        max_connections=MOST_CONNECTIONS, max_keepalive_connections=100, keepalive_expiry=KEEP_ALIVE_S
    )
    timeout = openai.Timeout(None, connect=CONNECT_WITHIN_S, pool=CONNECT_WITHIN_S)
    verify = base_url.startswith("https:")  # reading the certificates takes 50 ms: not for nothing
    return openai.AsyncOpenAI(
        base_url=base_url,
        api_key=api_key or "none",
        max_retries=0,
        timeout=timeout,
        http_client=openai.DefaultAsyncHttpxClient(limits=limits, timeout=timeout, verify=verify),
    )
