"""Instructions to the model for single responses. The model speaks the caller's language; these are in English."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

_GOODBYE = (
    "The call has reached its time limit. Say so politely in one short sentence in the language of the "
    "conversation, thank the caller and say goodbye. Ask nothing and call no tool."
)
_GOODBYE_TO_NOBODY = (
    "The caller has not said anything for a long time. Say in one short sentence in the language of the conversation "
    "that you are going to end the call, and say goodbye. Ask nothing and call no tool."
)
_GOODBYE_OF_THE_AGENT = (
    "The conversation is over and you are about to hang up. Say goodbye in one short sentence in the language of the "
    "conversation. Ask nothing and call no tool."
)
_CARRY_ON = (
    "The line was interrupted for a moment while you were speaking. Apologise in a few words and go on "
    "exactly where your last sentence stopped; do not repeat what the caller has heard and do not greet again."
)
_ASK_TO_REPEAT = (
    "The line was interrupted while the caller was speaking and their words were lost. Apologise briefly "
    "and ask them to repeat the last thing they said. Do not greet again."
)
_NOT_UNDERSTOOD = (
    "What the caller has just said could not be understood. Say so in a few words and ask them to repeat it."
)
_COME_BACK = (
    "A human colleague has spoken with the caller, you did not hear what was said, and the call is yours again. Say in "
    "one short sentence in the language of the conversation that you are back, and ask how you can help further. Do "
    "not greet again."
)
_TRANSFER_FAILED = (
    "The attempt to connect the caller with somebody else has failed: nobody answered there, or the line was busy. "
    "Tell the caller so in one short sentence in the language of the conversation, apologise, and go on helping "
    "them yourself. Do not greet again."
)


@dataclass(frozen=True, slots=True)
class Verbatim:
    """Words to be said as they are; a backend with a voice of its own needs no model for them."""

    text: str


@dataclass(frozen=True, slots=True)
class Told:
    """News of the caller that the model is to answer, and to remember whatever becomes of its answer."""

    text: str


Wish = Verbatim | Told | str | None
"""What a response is to be: words as they are, an answer to news, instructions for this one response, or the model's
own answer."""


def as_instructions(wish: Wish) -> str | None:
    """A wish in the words that a model understands."""
    if isinstance(wish, Verbatim):
        return f"Say exactly the following to the caller, word for word, then stop and add nothing:\n{wish.text}"
    return f"{wish.text}\nReact to that." if isinstance(wish, Told) else wish


@dataclass(frozen=True, slots=True)
class Phrases:
    """What to tell the model when the session itself has something to say."""

    greeting: Wish = None
    goodbye: Wish = _GOODBYE
    goodbye_to_nobody: Wish = _GOODBYE_TO_NOBODY
    goodbye_of_the_agent: Wish = _GOODBYE_OF_THE_AGENT
    carry_on: str = _CARRY_ON
    ask_to_repeat: str = _ASK_TO_REPEAT
    not_understood: str = _NOT_UNDERSTOOD
    come_back: str = _COME_BACK
    transfer_failed: str = _TRANSFER_FAILED

    PERSON_SPOKE: ClassVar[str] = (
        "(A human colleague took the call and spoke with the caller. What was said is unknown.)"
    )

    @classmethod
    def of(cls, greeting: str | None, goodbye: str | None) -> Phrases:
        """From an agent's own words, where it has them."""
        return cls(
            greeting=Verbatim(greeting) if greeting else None,
            goodbye=Verbatim(goodbye) if goodbye else _GOODBYE,
            goodbye_to_nobody=Verbatim(goodbye) if goodbye else _GOODBYE_TO_NOBODY,
            goodbye_of_the_agent=Verbatim(goodbye) if goodbye else _GOODBYE_OF_THE_AGENT,
        )

    @staticmethod
    def keys(digits: str) -> str:
        """What the caller pressed, as an entry of the conversation."""
        return f"(The caller pressed these keys on the phone: {digits})"
