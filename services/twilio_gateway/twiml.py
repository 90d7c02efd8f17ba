"""The TwiML documents with which this gateway answers Twilio's requests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from twilio.twiml.voice_response import Connect, Dial, Stream, VoiceResponse

from libs.contracts.termination import Reason

CONTENT_TYPE = "text/xml"
SPOKEN = {"de": "de-DE", "en": "en-US", "fr": "fr-FR", "it": "it-IT", "es": "es-ES", "nl": "nl-NL", "pl": "pl-PL"}
BUSY = frozenset({Reason.AT_CAPACITY, Reason.TOO_MANY_ATTEMPTS, Reason.DRAINING, Reason.NO_WORKER, Reason.NOT_READY})


@dataclass(frozen=True, slots=True)
class DialPlan:
    """A transfer: whom to call, how long, and where Twilio reports."""

    target: str
    timeout_s: int
    action_url: str
    progress_url: str
    announcement_url: str | None = None


def connect(stream_url: str, parameters: Mapping[str, str], after_url: str) -> str:
    """Stream the call both ways; when we close the stream, Twilio asks `after_url` what comes next."""
    response, connecting = VoiceResponse(), Connect()
    stream = Stream(url=stream_url)
    for name, value in parameters.items():
        stream.parameter(name=name, value=value)
    connecting.append(stream)
    response.append(connecting)
    response.redirect(after_url, method="POST")
    return str(response)


def dial(plan: DialPlan) -> str:
    """Call the target and join it with the caller; the end of that, or its failure, goes to `action_url`."""
    response = VoiceResponse()
    dialling = Dial(timeout=plan.timeout_s, action=plan.action_url, method="POST")
    options = {"status_callback": plan.progress_url, "status_callback_event": "ringing answered"}
    if plan.announcement_url:
        options["url"] = plan.announcement_url
    if plan.target.lower().startswith(("sip:", "sips:")):
        dialling.sip(plan.target, **options)
    else:
        dialling.number(plan.target, **options)
    response.append(dialling)
    return str(response)


def language_of(languages: Sequence[str]) -> str:
    """The language of `<Say>` for an agent's first one."""
    first = languages[0] if languages else "en"
    return SPOKEN.get(first, first)


def forward(number: str, timeout_s: int) -> str:
    """The fallback's number in place of an agent; the call ends with that conversation."""
    response = VoiceResponse()
    dialling = Dial(timeout=timeout_s)
    dialling.number(number)
    response.append(dialling)
    return str(response)


def say(text: str, language: str) -> str:
    """Words in Twilio's voice, to the target of a transfer before it is joined."""
    response = VoiceResponse()
    response.say(text, language=language)
    return str(response)


def play(url: str) -> str:
    """A sound file, then the end."""
    response = VoiceResponse()
    response.play(url)
    response.hangup()
    return str(response)


def reject(reason: Reason) -> str:
    """Do not answer: busy tone where another try may help, else "not in service". Not billed."""
    response = VoiceResponse()
    response.reject(reason="busy" if reason in BUSY else "rejected")
    return str(response)


def hang_up() -> str:
    """End the call."""
    response = VoiceResponse()
    response.hangup()
    return str(response)


def nothing() -> str:
    """No instruction: what a status callback gets."""
    return str(VoiceResponse())
