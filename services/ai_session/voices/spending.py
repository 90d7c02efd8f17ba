"""What a spoken text cost. Pure."""

from __future__ import annotations

from services.ai_session.backends.port import UsageCounted
from services.ai_session.costs import Models


def usage_of(models: Models, model: str, text: str, seconds: float | None) -> UsageCounted:
    """The usage of one text that became `seconds` of speech, as far as that is known already.

    Providers bill what they were sent, whether or not it was heard.
    """
    cost = models.cost_of_speech(model, characters=len(text), seconds=seconds)
    return UsageCounted("speech", model, "", {"characters": len(text)}, seconds, cost)
