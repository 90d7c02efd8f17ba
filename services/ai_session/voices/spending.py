"""What a spoken text cost: by the character, by the minute, or unknown. Pure."""

from __future__ import annotations

from services.ai_session.backends.port import UsageCounted
from services.ai_session.costs import Models


def usage_of(models: Models, model: str, text: str, seconds: float) -> UsageCounted:
    """The usage of one text that became `seconds` of speech.

    Providers bill what they were sent, whether or not it was heard. `characters` in the model table is a price per
    thousand; a model with neither that nor `minute` has no cost here.
    """
    entry = models.get(model)
    per_thousand: float | None = getattr(entry, "characters", None)
    cost: float | None = None
    if per_thousand is not None:
        cost = len(text) / 1000 * per_thousand
    elif entry.minute is not None:
        cost = seconds / 60 * entry.minute
    return UsageCounted("speech", model, "", {"characters": len(text)}, round(seconds, 3), cost)
