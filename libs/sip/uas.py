"""The called side: INVITE, its responses, ACK, CANCEL, and requests inside a dialog (RFC 3261 §8.2, §12.2, §14)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from libs.sip.dialog import Address, Dialog, DialogState, UnacknowledgedSuccess, without_tag
from libs.sip.dialog_layer import check_path, server_key
from libs.sip.digest_server import Verdict
from libs.sip.errors import NoCommonCodec, SdpError, SipStateError
from libs.sip.events import (
    Action,
    Cancelled,
    Confirmed,
    DtmfInfo,
    EndCause,
    Ended,
    IncomingCall,
    InviteRefused,
    Send,
    SessionChanged,
)
from libs.sip.message import HeaderList, Reply, Request, build_response
from libs.sip.screening import ALLOW, parse_dtmf_info, sdp_of
from libs.sip.sdp import (
    LocalMedia,
    Negotiated,
    SessionDescription,
    accept_answer,
    has_common_codec,
    local_media,
    negotiate,
)
from libs.sip.session_layer import SessionLayer, fresh_offer
from libs.sip.transaction import ServerInvite, State
from libs.sip.transfers import Transfers
from libs.sip.uri import DEFAULT_PORTS

_SDP_TYPE = ("Content-Type", "application/sdp")


def _quotable(error: Exception) -> str:
    """An error sentence as the text of a Warning or Reason header."""
    return str(error).replace("\\", "").replace('"', "'")[:120]


class Uas(SessionLayer, Transfers):
    """Calls that are placed to us."""

    def _receive_invite(self, request: Request, source: Address, now: float) -> list[Action]:
        admitted = self._admit(request, source, now)
        if not isinstance(admitted, str):
            return admitted
        merge_key = (request.call_id, request.from_.tag, str(request.cseq), request.method)
        if merge_key in self._merged:
            # RFC 3261 §8.2.2.2: the same request came over another path
            return self._reply(request, source, 482, now)
        full = len(self._dialogs) >= self._config.max_dialogs
        if full or len(self._transactions) >= self._config.max_transactions:
            return self._reply(request, source, Reply(503, (("Retry-After", "5"),)), now)
        if not request.values("contact"):
            return self._reply(request, source, 400, now)  # §8.1.1.8: exactly one Contact
        check_path(request)
        if (too_brief := self._too_brief(request)) is not None:
            return self._reply(request, source, too_brief, now)
        try:
            offer = SessionDescription.parse(sdp) if (sdp := sdp_of(request)) else None
        except SdpError as error:
            return self._refuse_offer(request, source, self._bad_sdp(error), str(error), now)
        if offer is not None and not has_common_codec(offer, self._config.codecs):
            return self._refuse_offer(request, source, self._no_codec, "no common codec", now)
        dialog = Dialog(
            self._new_token(), True, request.call_id, without_tag(request.to), self._new_token(),
            without_tag(request.from_), source, DialogState.EARLY, request.from_.tag,
        )  # fmt: skip
        dialog.learn_target(request)
        dialog.learn_route(request)
        dialog.learn_allow(request)
        dialog.remote_cseq = request.cseq
        self._start_server_invite(dialog, request, source)
        self._merged.add(merge_key)
        self._transactions[dialog.invite_key].merge_key = merge_key
        self._dialogs[dialog.id] = self._by_key[dialog.key] = dialog
        self.counters["invites"] += 1
        trying = self._respond(dialog, 100, now)
        incoming = IncomingCall(
            dialog.id, request.uri, request.from_.uri, request.from_.display_name, request.to.uri, request.call_id,
            source, offer, request.headers, admitted,
        )  # fmt: skip
        return [*trying, incoming]

    def _admit(self, request: Request, source: Address, now: float) -> str | list[Action]:
        """User name of an admitted caller, "" for a trusted source; else 401, without state (RFC 3261 §8.2.7, §22.2).

        An attacker who sends a flood of INVITEs leaves no transaction behind.
        """
        server = self._doorkeeper(source) if self._doorkeeper is not None else None
        if server is None:
            return ""
        checked = server.check("INVITE", request.headers.get("authorization", ()), now)
        self.counters[f"digest_{checked.verdict}"] += 1
        if checked.verdict is Verdict.ACCEPTED:
            return checked.username
        is_stale = checked.verdict in (Verdict.STALE, Verdict.REPLAYED)
        reply = Reply(401, (*server.challenge(now, is_stale), self._server))
        data = build_response(request, reply, source, self._new_token())
        return [Send(data, self._way_back(request.via, source))]

    def _refuse_offer(self, request: Request, source: Address, reply: Reply, why: str, now: float) -> list[Action]:
        refused = InviteRefused(
            request.uri, request.from_.uri, request.to.uri, source, reply.status, why, request.call_id
        )
        return [*self._reply(request, source, reply, now), refused]

    @property
    def _no_codec(self) -> Reply:
        # RFC 3261 §20.43: 305 Incompatible media format
        return Reply(488, (("Warning", f'305 {self._sent_by} "no common codec"'),))

    def _bad_sdp(self, error: SdpError) -> Reply:
        self.counters["bad_sdp"] += 1
        return Reply(400, (("Warning", f'399 {self._sent_by} "{_quotable(error)}"'),))

    def _start_server_invite(self, dialog: Dialog, request: Request, source: Address) -> None:
        transaction = ServerInvite(self._timers, self._way_back(request.via, source))
        transaction.dialog = dialog.id
        if self._config.is_reliable:
            # §18.2.2: without the connection, the address it came from at the port that it says it listens on
            transaction.return_address = source[0], request.via.port or DEFAULT_PORTS[self._config.transport]
        dialog.invite, dialog.invite_key = request, server_key(request)
        self._heard_from(dialog, source)
        self._add_transaction(dialog.invite_key, transaction)

    def _respond(
        self, dialog: Dialog, status: int, now: float, headers: HeaderList = (), sdp: str = "", reason: str = ""
    ) -> list[Action]:  # fmt: skip
        """A response to the dialog's open INVITE."""
        transaction, request = self._transactions.get(dialog.invite_key), dialog.invite
        if not isinstance(transaction, ServerInvite) or request is None:
            raise SipStateError("the dialog has no open INVITE")
        lines: list[tuple[str, str]] = []
        if 100 < status < 300:
            # §12.1.1: the response that creates the dialog echoes Record-Route and names our Contact
            lines += [("Record-Route", value) for value in request.values("record-route")]
            lines += [self._contact, ("Allow", ALLOW)]
        lines += [*headers, self._server]
        if sdp:
            lines.append(_SDP_TYPE)
        data = build_response(request, Reply(status, lines, sdp.encode(), reason), dialog.peer, dialog.local_tag)
        transaction.respond(status, data, now)
        self._rearm(dialog.invite_key, transaction)
        return [Send(data, transaction.destination)]

    def _early_uas(self, dialog_id: str) -> Dialog | None:
        dialog = self._dialogs.get(dialog_id)
        return dialog if dialog is not None and dialog.is_uas and dialog.state is DialogState.EARLY else None

    def ring(self, dialog: str, now: float) -> list[Action]:
        """180 Ringing. Nothing when the call is already answered, cancelled or gone."""
        early = self._early_uas(dialog)
        return self._respond(early, 180, now) if early else []

    def progress(self, dialog: str, sdp: str, now: float) -> list[Action]:
        """183 Session Progress with early media. Nothing when the call is already answered, cancelled or gone."""
        early = self._early_uas(dialog)
        return self._respond(early, 183, now, sdp=sdp) if early else []

    def answer(self, dialog: str, sdp: str, now: float) -> list[Action]:
        """200 with our answer (our offer after a late offer), repeated until the ACK arrives.

        Raises SipStateError when the call was cancelled, ended or answered before, SdpError when `sdp` is not SDP.
        """
        early = self._early_uas(dialog)
        if early is None:
            raise SipStateError(f"dialog {dialog} cannot be answered: it was cancelled, ended or answered before")
        local = SessionDescription.parse(sdp)
        has_offer = early.invite is not None and bool(sdp_of(early.invite))
        actions = self._accept(early, local, None if has_offer else local, now, is_first=True)
        early.state = DialogState.CONFIRMED
        return actions

    def _accept(
        self, dialog: Dialog, local: SessionDescription, offer: SessionDescription | None, now: float, is_first: bool
    ) -> list[Action]:  # fmt: skip
        """2xx to an INVITE; `offer` is set when it carries one of ours."""
        assert dialog.invite is not None
        timer_lines = self._answer_timer(dialog, dialog.invite, now)
        actions = self._respond(dialog, 200, now, timer_lines, local.serialize())
        sent = actions[0]
        assert isinstance(sent, Send)
        t1_s, patience_s = self._timers.t1_s, self._timers.patience_s
        dialog.local_sdp = local
        dialog.unacknowledged = UnacknowledgedSuccess(
            sent.data, sent.destination, dialog.invite.cseq, t1_s, now + t1_s, now + patience_s, offer, is_first
        )
        self._deadlines.set(("dialog", dialog.id), dialog.unacknowledged.deadline())
        return actions

    def reject(
        self, dialog: str, status: int, now: float, reason: str = "", headers: Sequence[tuple[str, str]] = ()
    ) -> list[Action]:  # fmt: skip
        """A final 3xx to 6xx and `Ended`. Nothing when the call is already answered, cancelled or gone."""
        if not 300 <= status <= 699:
            raise SipStateError(f"{status} does not reject a call")
        early = self._early_uas(dialog)
        if early is None:
            return []
        actions = self._respond(early, status, now, headers, reason=reason)
        self._end(early, actions, Ended(early.id, EndCause.REJECTED, status, reason))
        return actions

    def _receive_cancel(self, request: Request, source: Address, now: float) -> list[Action]:
        """RFC 3261 §9.2: 200 to the CANCEL when its INVITE is known, 487 to the INVITE when it is still open."""
        invite_key = server_key(request, "INVITE")
        transaction = self._transactions.get(invite_key)
        if not isinstance(transaction, ServerInvite):
            return self._reply(request, source, 481, now)
        dialog = self._early_uas(transaction.dialog)
        actions = self._reply(request, source, 200, now, dialog.local_tag if dialog is not None else "")
        if dialog is not None and dialog.invite_key == invite_key and transaction.state is State.PROCEEDING:
            self.counters["cancelled"] += 1
            actions += self._respond(dialog, 487, now)
            self._end(dialog, actions, Cancelled(dialog.id, request.header("reason")))
        return actions

    def _receive_ack(self, request: Request, now: float) -> list[Action]:
        """ACK to a 2xx (§13.3.1.4); an ACK to anything else was taken by its transaction."""
        dialog = self._by_key.get((request.call_id, request.to.tag, request.from_.tag))
        pending = dialog.unacknowledged if dialog is not None else None
        if dialog is None or pending is None or pending.cseq != request.cseq:
            self.counters["stray_acks"] += 1
            return []
        dialog.unacknowledged = None
        self._deadlines.set(("dialog", dialog.id), None)
        transaction = self._transactions.get(dialog.invite_key)
        if isinstance(transaction, ServerInvite):
            transaction.forget_response()
        if dialog.state is DialogState.ENDED:
            cause, dialog.bye_after_ack = dialog.bye_after_ack, None
            actions = self._send_bye(dialog, now, cause) if cause is not None else []
            self._forget(dialog)
            return actions
        return self._confirmed(dialog, pending, request, now)

    def _confirmed(self, dialog: Dialog, pending: UnacknowledgedSuccess, ack: Request, now: float) -> list[Action]:
        if pending.offer is None:
            return [Confirmed(dialog.id)] if pending.is_first else []
        try:
            answer = SessionDescription.parse(ack.body.decode("utf-8", "replace"))
            negotiated = accept_answer(pending.offer, answer)
        except SdpError as error:
            # RFC 3261 §13.3.1.4 leaves only BYE when the answer in the ACK does not fit our offer
            self.counters["bad_sdp"] += 1
            actions = self._send_bye(dialog, now, f'SIP;cause=488;text="{_quotable(error)}"')
            self._end(dialog, actions, Ended(dialog.id, EndCause.LOCAL_BYE, 488, str(error)))
            return actions
        if pending.is_first:
            return [Confirmed(dialog.id, answer)]
        return [SessionChanged(dialog.id, answer, negotiated)]

    def _receive_in_dialog(self, dialog: Dialog, request: Request, source: Address, now: float) -> list[Action]:
        if request.cseq <= dialog.remote_cseq:
            # §12.2.2: out of order
            return self._reply(request, source, 500, now)
        dialog.remote_cseq = request.cseq
        if request.method != "INVITE":
            self._heard_from(dialog, source)
        match request.method:
            case "BYE":
                return self._receive_bye(dialog, request, source, now)
            case "INVITE":
                return self._receive_reinvite(dialog, request, source, now)
            case "UPDATE":
                return self._receive_update(dialog, request, source, now)
            case "REFER":
                return self._receive_refer(dialog, request, source, now)
            case "NOTIFY":
                return self._receive_notify(dialog, request, source, now)
            case "INFO":
                digit = parse_dtmf_info(request) if request.body else None
                actions = self._reply(request, source, 200, now)
                return [*actions, DtmfInfo(dialog.id, digit.digit, digit.duration_ms)] if digit else actions
            case _:
                headers = (("Allow", ALLOW), ("Accept", "application/sdp"), self._contact)
                return self._reply(request, source, Reply(200, headers), now)

    def _receive_bye(self, dialog: Dialog, request: Request, source: Address, now: float) -> list[Action]:
        actions = self._reply(request, source, 200, now)
        if dialog.is_uas and dialog.state is DialogState.EARLY:
            actions += self._respond(dialog, 487, now)  # §15.1.2: the pending INVITE gets 487
        dialog.unacknowledged = dialog.bye_after_ack = None
        self._end(dialog, actions, Ended(dialog.id, EndCause.REMOTE_BYE, None, request.header("reason")))
        return actions

    def _offer_refusal(self, dialog: Dialog) -> Reply | None:
        """Whether a new offer may come now (RFC 3261 §14.2, RFC 3311 §5.2)."""
        if self._open_client_invite(dialog) or dialog.open_update:
            return Reply(491)
        if dialog.state is not DialogState.CONFIRMED:
            return Reply(500, (("Retry-After", "1"),))
        return Reply(491) if dialog.unacknowledged is not None else None

    def _receive_reinvite(self, dialog: Dialog, request: Request, source: Address, now: float) -> list[Action]:
        """Answered here with the session as it is, the direction mirrored (RFC 3261 §14.2, RFC 3264 §8.4)."""
        check_path(request)
        refusal = self._offer_refusal(dialog) or self._too_brief(request)
        if refusal is None and len(self._transactions) >= self._config.max_transactions:
            refusal = Reply(503, (("Retry-After", "5"),))
        settled = self._settle_offer(dialog, request) if refusal is None else refusal
        if isinstance(settled, Reply):
            return self._reply(request, source, settled, now)
        dialog.learn_target(request)
        self._start_server_invite(dialog, request, source)
        self.counters["reinvites"] += 1
        if settled is None:
            ours = fresh_offer(dialog)
            return self._accept(dialog, ours, ours, now, is_first=False)
        offer, negotiated = settled
        actions = self._accept(dialog, negotiated.answer, None, now, is_first=False)
        return [*actions, SessionChanged(dialog.id, offer, negotiated)]

    def _receive_update(self, dialog: Dialog, request: Request, source: Address, now: float) -> list[Action]:
        check_path(request)
        refusal = (self._offer_refusal(dialog) if sdp_of(request) else None) or self._too_brief(request)
        settled = self._settle_offer(dialog, request) if refusal is None and sdp_of(request) else refusal
        if isinstance(settled, Reply):
            return self._reply(request, source, settled, now)
        dialog.learn_target(request)
        lines = (self._contact, ("Allow", ALLOW), *self._answer_timer(dialog, request, now))
        if settled is None:
            return self._reply(request, source, Reply(200, lines), now)
        offer, negotiated = settled
        dialog.local_sdp = negotiated.answer
        headers = (*lines, _SDP_TYPE)
        actions = self._reply(request, source, Reply(200, headers, negotiated.answer.serialize().encode()), now)
        return [*actions, SessionChanged(dialog.id, offer, negotiated)]

    def _settle_offer(self, dialog: Dialog, request: Request) -> tuple[SessionDescription, Negotiated] | Reply | None:
        """Our answer to a new offer in the session, None when the request brings no offer."""
        if dialog.local_sdp is None:
            return Reply(488)
        sdp = sdp_of(request)
        if not sdp:
            return None
        try:
            offer = SessionDescription.parse(sdp)
            # the codec in use stays in use: the media path has it set up
            in_use = next((name for line in dialog.local_sdp.media for _, name, _ in line.codecs() if line.port), "")
            local = replace(local_media(dialog.local_sdp, self._config.codecs), direction=dialog.local_direction)
            negotiated = _prefer(offer, local, in_use)
        except NoCommonCodec:
            return self._no_codec
        except SdpError as error:
            return self._bad_sdp(error)
        if negotiated.answer != dialog.local_sdp:
            # RFC 3264 §8: a changed description carries the next version
            version = negotiated.answer.session_version + 1
            negotiated = replace(negotiated, answer=replace(negotiated.answer, session_version=version))
        return offer, negotiated


def _prefer(offer: SessionDescription, local: LocalMedia, codec: str) -> Negotiated:
    """Answer a new offer with the codec in use when it is still offered, else with any that we speak."""
    try:
        return negotiate(offer, replace(local, codecs=(codec,)))
    except NoCommonCodec:
        return negotiate(offer, local)
