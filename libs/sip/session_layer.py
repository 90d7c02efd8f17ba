"""The session inside a confirmed dialog: new offers by re-INVITE and UPDATE, hold, glare, and session timers.

An offer of ours is open until its final response; a peer's offer that crosses it gets 491 from us and gives 491 to
ours, which then waits a random time of its own and tries again (RFC 3261 §14.1). One heap entry per dialog and part:
("session", id) refreshes or ends a timed session, ("offer", id) repeats an offer that met 491.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from libs.sip.dialog import Address, Dialog, DialogState, SentRequest
from libs.sip.dialog_layer import DialogLayer
from libs.sip.errors import SdpError, SipStateError
from libs.sip.events import Action, Answered, EndCause, Ended, ReinviteRejected, SessionChanged
from libs.sip.message import Reply, Request, Response
from libs.sip.screening import ALLOW, EXTENSIONS
from libs.sip.sdp import Direction, SessionDescription, accept_answer
from libs.sip.session_timer import MIN_SE_S, SessionExpires, SessionTimer, agreed_by_callee, min_se

MAX_GLARES = 5
MAX_RAISES = 5  # of one request's session interval: each proxy on the way may ask for more than the one before
# how soon a refresh that failed without ending the dialog is tried again
REFRESH_RETRY_S = 10.0
_SDP_TYPE = ("Content-Type", "application/sdp")


class SessionLayer(DialogLayer):
    """Offers and session timers, which caller and callee share once the dialog is confirmed."""

    # -- offers of ours -----------------------------------------------------------------------------------------

    def reinvite(self, dialog: str, sdp: str, now: float) -> list[Action]:
        """Offer a new session in a confirmed dialog; `Answered` or `ReinviteRejected` follows (RFC 3261 §14.1).

        Raises SipStateError while another offer is open.
        """
        found = self._ready_for_offer(dialog)
        SessionDescription.parse(sdp)
        return self._send_invite(found, sdp, now, (), self._next_hop(found))

    def update(self, dialog: str, sdp: str, now: float) -> list[Action]:
        """The same by UPDATE (RFC 3311), which needs no ACK and may be answered by a machine only.

        Raises SipStateError while another offer is open, or when the peer does not list UPDATE in Allow.
        """
        found = self._ready_for_offer(dialog)
        if "UPDATE" not in found.remote_allow:
            raise SipStateError(f"the peer of dialog {dialog} does not allow UPDATE")
        SessionDescription.parse(sdp)
        return self._send_update(found, sdp, now)

    def hold(self, dialog: str, now: float, direction: Direction = Direction.SENDONLY) -> list[Action]:
        """Offer the session as it is in another direction; `resume` offers sendrecv again (RFC 3264 §8.4).

        Until then new offers of the peer are answered with no more than this direction. Raises SipStateError while
        another offer is open or no session was agreed.
        """
        found = self._ready_for_offer(dialog)
        if found.local_sdp is None:
            raise SipStateError(f"dialog {dialog} has no session")
        return self._send_invite(
            found, redirected(found.local_sdp, direction).serialize(), now, (), self._next_hop(found)
        )

    def resume(self, dialog: str, now: float) -> list[Action]:
        """End our hold."""
        return self.hold(dialog, now, Direction.SENDRECV)

    def _ready_for_offer(self, dialog_id: str) -> Dialog:
        found = self._dialogs.get(dialog_id)
        if found is None or found.state is not DialogState.CONFIRMED:
            raise SipStateError(f"dialog {dialog_id} is not confirmed")
        if self._offer_is_open(found) or found.waiting_offer is not None:
            raise SipStateError(f"dialog {dialog_id} has an offer open")
        return found

    def _offer_is_open(self, dialog: Dialog) -> bool:
        return self._open_client_invite(dialog) or dialog.open_update or dialog.unacknowledged is not None

    def _offer_lines(self, sdp: str) -> list[tuple[str, str]]:
        lines = [self._contact, ("Allow", ALLOW), ("User-Agent", self._config.user_agent)]
        return [*lines, _SDP_TYPE] if sdp else lines

    def _send_invite(
        self, dialog: Dialog, sdp: str, now: float, headers: Sequence[tuple[str, str]], destination: Address
    ) -> list[Action]:
        return self._request(dialog, "INVITE", now, [*self._offer_lines(sdp), *headers], sdp.encode(), destination)

    def _send_update(self, dialog: Dialog, sdp: str, now: float, is_refresh: bool = False) -> list[Action]:
        dialog.open_update = bool(sdp)
        lines = self._offer_lines(sdp)
        return self._send_request(SentRequest(dialog, "UPDATE", lines, sdp.encode(), None, is_refresh), now)

    # -- what comes back ----------------------------------------------------------------------------------------

    def _offer_accepted(self, sent: SentRequest, response: Response, now: float) -> list[Action]:
        """2xx to a re-INVITE or UPDATE: the offer is in force, the session timer starts again."""
        dialog = sent.dialog
        self._agreed_by_peer(dialog, response, now)
        offer = SessionDescription.parse(sent.body.decode()) if sent.body else None
        answer = self._read_sdp(response)
        if offer is not None:
            dialog.local_sdp = offer
            if not sent.is_refresh:  # a refresh says what is, perhaps the peer's hold, not what we want
                dialog.local_direction = _direction(offer)
        if not sent.is_refresh:
            return [Answered(dialog.id, answer)]
        if offer is None or answer is None:
            return []
        try:
            return [SessionChanged(dialog.id, answer, accept_answer(offer, answer))]
        except SdpError:
            self.counters["bad_sdp"] += 1
            return []

    def _offer_refused(self, sent: SentRequest, response: Response, now: float) -> list[Action]:
        """3xx to 6xx to a re-INVITE or UPDATE that leaves the dialog alive."""
        dialog = sent.dialog
        if response.status == 491 and sent.glares < MAX_GLARES:
            sent.glares += 1
            dialog.waiting_offer = sent
            self._deadlines.set(("offer", dialog.id), now + self._glare_wait_s(dialog))
            return []
        if response.status == 422 and self._raise_interval(sent, response):
            return self._repeat_offer(sent, now)
        if sent.is_refresh:
            self._retry_refresh(dialog, now)
            return []
        return [ReinviteRejected(dialog.id, response.status, response.reason)]

    def _glare_wait_s(self, dialog: Dialog) -> float:
        """RFC 3261 §14.1, in units of 10 ms: the owner of the Call-ID 2.1 to 4 s, the other side 0 to 2 s."""
        low, high = (0.0, 2.0) if dialog.is_uas else (2.1, 4.0)
        return round(low + (high - low) * self._jitter(), 2)

    def _expire_offer(self, dialog_id: str, now: float) -> list[Action]:
        dialog = self._dialogs.get(dialog_id)
        if dialog is None or dialog.waiting_offer is None:
            return []
        if self._offer_is_open(dialog):
            self._deadlines.set(("offer", dialog_id), now + 0.5)
            return []
        sent, dialog.waiting_offer = dialog.waiting_offer, None
        return self._repeat_offer(sent, now)

    def _repeat_offer(self, sent: SentRequest, now: float) -> list[Action]:
        dialog = sent.dialog
        if sent.body and dialog.local_sdp is not None and dialog.state is DialogState.CONFIRMED:
            # RFC 3264 §8: the version may have moved on while the offer waited
            offer = SessionDescription.parse(sent.body.decode())
            version = max(offer.session_version, dialog.local_sdp.session_version + 1)
            sent.body = replace(offer, session_version=version).serialize().encode()
        sent.tried = ()
        dialog.open_update = sent.method == "UPDATE" and bool(sent.body)
        return self._send_request(sent, now)

    def _update_answered(self, sent: SentRequest, response: Response, now: float) -> list[Action]:
        sent.dialog.open_update = False
        if response.status >= 300:
            return self._offer_refused(sent, response, now)
        sent.dialog.learn_target(response)
        return self._offer_accepted(sent, response, now)

    def _read_sdp(self, response: Response) -> SessionDescription | None:
        if not response.body:
            return None
        try:
            return SessionDescription.parse(response.body.decode("utf-8", "replace"))
        except SdpError:
            self.counters["bad_sdp"] += 1
            return None

    # -- session timers (RFC 4028) ------------------------------------------------------------------------------

    def _raise_interval(self, sent: SentRequest, response: Response) -> bool:
        """422: ask for what Min-SE says (§7.3). False when that would be the same question again, or has no end."""
        wanted_s = min_se(response.headers)
        dialog = sent.dialog
        if wanted_s <= dialog.min_se_s or sent.raises >= MAX_RAISES:
            return False
        sent.raises += 1
        dialog.min_se_s = wanted_s
        dialog.session_interval_s = max(dialog.session_interval_s, wanted_s)
        return True

    def _agreed_by_peer(self, dialog: Dialog, response: Response, now: float) -> None:
        """A 2xx to our INVITE or UPDATE; without Session-Expires the session does not expire (§7.2)."""
        said = SessionExpires.of(response.headers)
        timer = SessionTimer.start(said.interval_s, said.refresher != "uas", now) if said is not None else None
        self._run_timer(dialog, timer)

    def _too_brief(self, request: Request) -> Reply | None:
        """422 to an interval below ours (§6); a caller without session timers cannot act on it and gets ours."""
        asked = SessionExpires.of(request.headers)
        if asked is None or asked.interval_s >= MIN_SE_S or not _supports_timer(request):
            return None
        return Reply(422, (("Min-SE", str(MIN_SE_S)),))

    def _answer_timer(self, dialog: Dialog, request: Request, now: float) -> list[tuple[str, str]]:
        """Start the timer with our 2xx; gives the headers that say so (§9)."""
        agreed = agreed_by_callee(SessionExpires.of(request.headers), _supports_timer(request), dialog.timer)
        lines = [("Supported", ", ".join(EXTENSIONS))]
        if agreed is None:
            return lines
        self._run_timer(dialog, SessionTimer.start(agreed.interval_s, agreed.refresher == "uas", now))
        if agreed.refresher == "uac":
            lines.append(("Require", "timer"))
        return [*lines, ("Session-Expires", str(agreed))]

    def _run_timer(self, dialog: Dialog, timer: SessionTimer | None) -> None:
        dialog.timer = timer
        self._deadlines.set(("session", dialog.id), timer.deadline() if timer is not None else None)

    def _retry_refresh(self, dialog: Dialog, now: float) -> None:
        if dialog.timer is not None and dialog.timer.we_refresh:
            dialog.timer.refresh_at = now + REFRESH_RETRY_S
            self._run_timer(dialog, dialog.timer)

    def _expire_session(self, dialog_id: str, now: float) -> list[Action]:
        """Refresh by UPDATE, or by re-INVITE where that is not allowed (§7.4); BYE when nobody did (§10)."""
        dialog = self._dialogs.get(dialog_id)
        timer = dialog.timer if dialog is not None else None
        if dialog is None or timer is None or dialog.state is not DialogState.CONFIRMED:
            return []
        if timer.expires_at <= now:
            self.counters["sessions_expired"] += 1
            actions: list[Action] = []
            cause = 'SIP;cause=408;text="session timer expired"'
            if dialog.unacknowledged is not None:
                dialog.bye_after_ack = cause
            else:
                actions = self._send_bye(dialog, now, cause)
            self._end(dialog, actions, Ended(dialog.id, EndCause.TRANSACTION_TIMEOUT, 408, "session timer expired"))
            return actions
        if self._offer_is_open(dialog) or dialog.waiting_offer is not None:
            self._retry_refresh(dialog, now)
            return []
        timer.refresh_at = None
        self._run_timer(dialog, timer)
        self.counters["session_refreshes"] += 1
        if "UPDATE" in dialog.remote_allow:
            return self._send_update(dialog, "", now, is_refresh=True)
        sdp = dialog.local_sdp.serialize() if dialog.local_sdp is not None else ""
        refresh = SentRequest(dialog, "INVITE", self._offer_lines(sdp), sdp.encode(), None, is_refresh=True)
        return self._send_request(refresh, now)


def _direction(session: SessionDescription) -> Direction:
    return next((session.direction(line) for line in session.media if line.port), Direction.SENDRECV)


def fresh_offer(dialog: Dialog) -> SessionDescription:
    """What we offer when the peer asks for an offer: the session with the direction that we want, so that a peer's hold
    ends when it asks without one of its own (RFC 6337 §5.3)."""
    assert dialog.local_sdp is not None
    if _direction(dialog.local_sdp) is dialog.local_direction:
        return dialog.local_sdp
    return redirected(dialog.local_sdp, dialog.local_direction)


def _supports_timer(request: Request) -> bool:
    tags = (*request.values("supported"), *request.values("require"))
    return any(tag.lower() == "timer" for tag in tags)


def redirected(session: SessionDescription, direction: Direction) -> SessionDescription:
    """The next version of a description with another direction for its audio (RFC 3264 §8)."""
    names = set(Direction)
    media = tuple(
        replace(
            line,
            attributes=(*(pair for pair in line.attributes if pair[0] not in names), (direction.value, None)),
        )
        if line.port
        else line
        for line in session.media
    )
    attributes = tuple(pair for pair in session.attributes if pair[0] not in names)
    return replace(session, session_version=session.session_version + 1, media=media, attributes=attributes)
