"""What serves an agent with backend `realtime`; an agent that cannot be served is refused when its call is offered."""

from __future__ import annotations

from libs.contracts.external_tools import secrets_of
from libs.contracts.offer import Offer
from services.ai_session.backends.factory import BackendPlan
from services.ai_session.backends.realtime import RealtimeBackend, capabilities_of
from services.ai_session.backends.realtime_config import mcp_tool
from services.ai_session.backends.realtime_link import Endpoint


def plan_realtime(endpoint: Endpoint, offer: Offer) -> BackendPlan:
    """The Realtime API for this call.

    Raises:
        UnsupportedAgentError: the agent needs the token of an MCP server that this worker does not have.
    """
    for server in offer.agent.mcp:
        mcp_tool(server, secrets_of(offer.agent.org, endpoint.mcp_tokens))
    return BackendPlan(
        capabilities_of(offer),
        lambda emit: RealtimeBackend(endpoint, offer, emit),
        endpoint.session_max_s,
        limit=f"realtime {offer.agent.model or endpoint.model}",
    )
