"""Transfers by `<Dial>`: the TwiML, and what Twilio reports of them. Reports may be late, and come twice."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from libs.call_leg.fences import OutboundFence
from services.twilio_gateway import twiml
from services.twilio_gateway.call import Live
from services.twilio_gateway.outcomes import end_of_dial
from services.twilio_gateway.settings import Settings

Form = Mapping[str, str]


class Transfers:
    """`find` gives a live call, `after` the TwiML for what a call does next."""

    def __init__(
        self, settings: Settings, fence: OutboundFence, find: Callable[[str], Live | None], after: Callable[[str], str]
    ) -> None:
        self._settings = settings
        self._fence = fence
        self._find = find
        self._after = after

    def dial(self, live: Live) -> str:
        """The TwiML that calls the target. Its URLs bear the transfer's number."""
        command, new = live.call.transfer_command, live.shell.new
        assert command is not None
        base = f"{self._settings.public_url}/calls/{new.call}"
        target = self._fence.number(command.target)
        announcement = f"{base}/announcement" if command.announcement else None
        which = f"?transfer={live.call.transfers}"
        plan = twiml.DialPlan(
            target,
            self._settings.twilio_dial_timeout_s,
            f"{base}/transfer{which}",
            f"{base}/target{which}",
            announcement,
        )
        return twiml.dial(plan)

    def announcement(self, call: str) -> str:
        """What the target of a transfer hears before it is joined."""
        live = self._find(call)
        command = live.call.transfer_command if live is not None else None
        if live is None or command is None or command.announcement is None:
            return twiml.nothing()
        return twiml.say(command.announcement, twiml.language_of(live.shell.new.agent.languages))

    def target(self, call: str, form: Form, which: str) -> None:
        """How the target of a transfer fares (`<Number statusCallback>`)."""
        live = self._find(call)
        if live is None or not _is_present(live, which):
            return
        status = form.get("CallStatus", "")
        if status == "ringing":
            live.shell.transfer_progress(180, "ringing")
        elif status == "in-progress":
            live.call.released()
            live.shell.transfer_ended(True, 200, "answered")

    def transferred(self, call: str, form: Form, which: str) -> str:
        """`<Dial>` has ended (its `action`): after a conversation, or without one; then the agent goes on."""
        live = self._find(call)
        if live is None:
            return twiml.hang_up()
        if not _is_present(live, which):  # cancelled meanwhile: the caller is on the way back
            return self._after(call)
        ok, status, detail = end_of_dial(form.get("DialCallStatus", ""))
        if ok:
            live.call.released()
            live.shell.transfer_ended(True, status, detail)
            return twiml.hang_up()
        if form.get("CallStatus") == "completed":  # the caller did not wait
            live.call.gone("hung up during the transfer")
            return twiml.hang_up()
        live.call.returned()
        live.shell.transfer_ended(False, status, detail)
        return self._after(call)


def _is_present(live: Live, which: str) -> bool:
    """Whether what Twilio reports is about the transfer that runs now."""
    return live.call.transfer_command is not None and which == str(live.call.transfers)
