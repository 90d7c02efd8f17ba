"""The calling side: INVITE, its responses, ACK, PRACK and CANCEL (RFC 3261 §8.1, §9.1, §13.2, RFC 3262)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from libs.sip.dialog import Address, Dialog, DialogState, without_tag
from libs.sip.dialog_layer import client_key
from libs.sip.digest import Authenticator, Credentials
from libs.sip.errors import SipStateError
from libs.sip.events import Action, Answered, EndCause, Ended, Rejected, Ringing, Send
from libs.sip.message import Reply, Request, Response
from libs.sip.screening import ALLOW, sdp_of
from libs.sip.sdp import SessionDescription
from libs.sip.session_layer import SessionLayer
from libs.sip.transaction import ClientInvite, ClientNonInvite, State
from libs.sip.uri import NameAddr, SipUri, format_name_addr

MAX_EARLY_ANSWERS = 16  # legs of a forked call whose early answer is kept


@dataclass(frozen=True)
class OutgoingCall:
    """One call to place. `destination` is the next hop's address; `sdp` our offer, "" for none; `headers` are added.

    `asserted_identity` is a URI for P-Asserted-Identity (RFC 3325); with `is_anonymous` From hides the caller and
    Privacy asks the trunk to do so too (RFC 3323). `credentials` answer challenges in place of the agent's own.
    `route` is a pre-loaded route set (outbound proxy). After `ring_timeout_s` the call is cancelled.
    """

    target_uri: str
    destination: Address
    from_uri: str
    from_display: str = ""
    sdp: str = ""
    headers: Sequence[tuple[str, str]] = ()
    asserted_identity: str = ""
    is_anonymous: bool = False
    credentials: Credentials | None = None
    route: tuple[str, ...] = ()
    ring_timeout_s: float | None = None

    def identity(self) -> tuple[str, list[tuple[str, str]]]:
        """From without its tag, and the headers that say who calls. Raises SipParseError."""
        SipUri.parse(self.from_uri)
        lines = list(self.headers)
        if self.asserted_identity:
            lines.append(("P-Asserted-Identity", f"<{SipUri.parse(self.asserted_identity)}>"))
        if self.is_anonymous:
            # RFC 3323 §4.1.1.3
            return '"Anonymous" <sip:anonymous@anonymous.invalid>', [*lines, ("Privacy", "id")]
        return format_name_addr(self.from_uri, self.from_display), lines


class Uac(SessionLayer):
    """Calls that we place."""

    def invite(self, call: OutgoingCall, now: float) -> tuple[str, list[Action]]:
        """Place a call; gives the dialog id and the INVITE to send.

        Raises SipParseError for a target that is no URI, SdpError for an `sdp` that is not SDP, SipStateError when
        `max_dialogs` calls exist.
        """
        if len(self._dialogs) >= self._config.max_dialogs:
            raise SipStateError(f"{self._config.max_dialogs} dialogs exist already")
        target = SipUri.parse(call.target_uri)
        local = SessionDescription.parse(call.sdp) if call.sdp else None
        from_, headers = call.identity()
        for route in call.route:
            NameAddr.parse(route)
        dialog = Dialog(
            self._new_token(), False, f"{self._new_token()}@{self._config.local_host}",
            from_, self._new_token(), f"<{call.target_uri}>", call.destination, DialogState.INVITING,
            remote_target=target, local_sdp=local, route_set=call.route,
            session_interval_s=self._config.session_expires_s,
        )  # fmt: skip
        dialog.auth = Authenticator(call.credentials or self._credentials, self._new_token)
        self._dialogs[dialog.id] = self._by_key[dialog.key] = dialog
        self.counters["calls_placed"] += 1
        if call.ring_timeout_s is not None:
            self._deadlines.set(("ring", dialog.id), now + call.ring_timeout_s)
        return dialog.id, self._send_invite(dialog, call.sdp, now, headers, call.destination)

    def _expire_ring(self, dialog_id: str, now: float) -> list[Action]:
        dialog = self._dialogs.get(dialog_id)
        if dialog is None:
            return []
        actions = self.cancel(dialog_id, now)
        dialog.ring_timed_out = dialog.state is DialogState.CANCELLING
        return actions

    def cancel(self, dialog: str, now: float) -> list[Action]:
        """Give up a call that is not answered yet; `Ended` follows with the final response.

        The CANCEL waits for the first provisional response (§9.1). Nothing when the call is already answered or gone.
        """
        found = self._dialogs.get(dialog)
        if found is None or found.is_uas or found.state not in (DialogState.INVITING, DialogState.EARLY):
            return []
        found.state = DialogState.CANCELLING
        transaction = self._transactions.get(found.invite_key)
        if isinstance(transaction, ClientInvite) and transaction.state is State.PROCEEDING:
            return self._send_cancel(found, transaction, now)
        return []

    def _send_cancel(self, dialog: Dialog, invite: ClientInvite, now: float) -> list[Action]:
        """Same request URI, Via branch, tags and CSeq number as the INVITE (§9.1)."""
        branch = dialog.invite_key[0]
        data = invite.head.follow_up("CANCEL", invite.head.to)
        cancel = ClientNonInvite(self._timers, invite.destination, data, now)
        cancel.dialog = dialog.id
        self._add_transaction(client_key(branch, "CANCEL"), cancel)
        invite.cancelled(now)
        self._rearm(dialog.invite_key, invite)
        return [Send(data, invite.destination)]

    def _invite_response(
        self, transaction: ClientInvite, response: Response, source: Address, now: float, is_new: bool
    ) -> list[Action]:
        if response.status >= 300:
            return self._invite_failed(transaction, response, now, is_new)
        dialog = self._dialogs.get(transaction.dialog)
        if response.status >= 200:
            return self._invite_succeeded(transaction, dialog, response, source, now)
        if dialog is None:
            return []
        if dialog.state is DialogState.CANCELLING:
            already = client_key(dialog.invite_key[0], "CANCEL") in self._transactions
            return [] if already else self._send_cancel(dialog, transaction, now)
        if response.status == 100 or dialog.state not in (DialogState.INVITING, DialogState.EARLY):
            return []
        actions: list[Action] = []
        if any(tag.lower() == "100rel" for tag in response.values("require")):
            if not (prack := self._acknowledge_provisional(dialog, response, source, now)):
                return []
            actions = prack
        dialog.state = DialogState.EARLY
        answer = self._read_sdp(response)
        if answer is not None and len(dialog.early_answers) < MAX_EARLY_ANSWERS:
            dialog.early_answers[response.to.tag] = answer
        return [*actions, Ringing(dialog.id, response.status, answer)]

    def _receive_early(self, request: Request, source: Address, now: float) -> list[Action]:
        """A request of a callee who has not answered yet, on whatever leg of the call.

        481 would have it end the call (RFC 3261 §12.2.1.2). Its offer meets ours, which is open (RFC 3311 §5.2).
        """
        if request.method not in ("UPDATE", "OPTIONS", "INFO"):
            return self._reply(request, source, 481, now)  # BYE may not come from a callee yet (§15)
        if request.method == "UPDATE" and sdp_of(request):
            return self._reply(request, source, 491, now)
        return self._reply(request, source, Reply(200, (self._contact, ("Allow", ALLOW))), now)

    def _acknowledge_provisional(
        self, dialog: Dialog, response: Response, source: Address, now: float
    ) -> list[Action]:  # fmt: skip
        """PRACK for a reliable provisional response; nothing for one that is repeated or out of order (RFC 3262 §4)."""
        number = response.header("rseq")
        if not number.isdecimal() or not response.to.tag:
            self.counters["bad_rseq"] += 1
            return []
        sequence = int(number)
        last = dialog.reliable_sequence.get(response.to.tag)
        if last is not None and sequence != last + 1:
            self.counters["repeated_responses"] += 1
            return []
        dialog.reliable_sequence[response.to.tag] = sequence
        # the leg borrows id, CSeq and credentials of the call, so that the BYE later counts on
        leg = replace(self._leg_of(response, source), id=dialog.id, local_cseq=dialog.local_cseq, auth=dialog.auth)
        return self._request(leg, "PRACK", now, [("RAck", f"{sequence} {response.cseq} INVITE")])

    def _invite_failed(self, transaction: ClientInvite, response: Response, now: float, is_new: bool) -> list[Action]:
        """3xx to 6xx: ACK on the INVITE's branch with the response's To (§17.1.1.3); repeats get the same ACK again."""
        ack = transaction.head.follow_up("ACK", response.to.text)
        actions: list[Action] = [Send(ack, transaction.destination)]
        dialog = self._dialogs.get(transaction.dialog)
        if not is_new or dialog is None:
            return actions
        status, reason, sent = response.status, response.reason, transaction.sent
        assert sent is not None
        if dialog.state is not DialogState.CANCELLING and status in (401, 407):
            # §22.2: the same request again with the next CSeq
            again = self._authorize(sent, response, now)
            if isinstance(again, list):
                return [*actions, *again]
            reason = f"{reason} ({again})"
        is_first = dialog.state in (DialogState.INVITING, DialogState.EARLY)
        if is_first and status == 422 and self._raise_interval(sent, response):
            return [*actions, *self._send_request(sent, now)]
        if dialog.state is DialogState.CONFIRMED:
            if status in (408, 481):
                actions += self._send_bye(dialog, now, "")
                self._end(dialog, actions, Ended(dialog.id, EndCause.TRANSACTION_TIMEOUT, status, reason))
                return actions
            return [*actions, *self._offer_refused(sent, replace(response, reason=reason), now)]
        if dialog.state is DialogState.CANCELLING:
            self._end(dialog, actions, Ended(dialog.id, _given_up(dialog), status, reason))
        else:
            self._end(dialog, actions, Rejected(dialog.id, status, reason, response.headers))
        return actions

    def _invite_succeeded(
        self, transaction: ClientInvite, dialog: Dialog | None, response: Response, source: Address, now: float
    ) -> list[Action]:
        """2xx: ACK to the Contact over the route set (§13.2.2.4), the same ACK again for every repeat."""
        known = transaction.success_acks.get(response.to.tag)
        if known is not None:
            self.counters["repeated_responses"] += 1
            return [Send(*known)]
        is_wanted = dialog is not None and (not transaction.success_acks) and dialog.state is not DialogState.ENDED
        if dialog is None or not is_wanted:
            # a second branch of a forked INVITE, or a call that is over: no leg may be left behind
            self.counters["unwanted_answers"] += 1
            leg = self._leg_of(response, source)
            leg.auth = transaction.sent.dialog.auth if transaction.sent is not None else None
            return [*self._acknowledge(leg, transaction, response), *self._send_bye(leg, now, "")]
        cancelling = dialog.state is DialogState.CANCELLING
        self._heard_from(dialog, source)
        is_first = dialog.state is not DialogState.CONFIRMED
        if is_first:
            self._by_key.pop(dialog.key, None)
            dialog.remote, dialog.remote_tag = without_tag(response.to), response.to.tag
            dialog.learn_route(response)
            dialog.state = DialogState.CONFIRMED
            self._deadlines.set(("ring", dialog.id), None)
            self._by_key[dialog.key] = dialog
        dialog.learn_target(response)
        dialog.learn_allow(response)
        actions = self._acknowledge(dialog, transaction, response)
        if cancelling:
            # §9.1, §15: the 200 crossed our CANCEL
            actions += self._send_bye(dialog, now, "")
            self._end(dialog, actions, Ended(dialog.id, _given_up(dialog), response.status, response.reason))
            return actions
        if not is_first and transaction.sent is not None:
            return [*actions, *self._offer_accepted(transaction.sent, response, now)]
        self._agreed_by_peer(dialog, response, now)
        # §13.2.1: an answer in a reliable provisional response of this leg is the answer, and the 2xx brings none
        early = dialog.early_answers.get(response.to.tag) if not response.body else None
        dialog.early_answers.clear()
        return [*actions, Answered(dialog.id, early or self._read_sdp(response))]

    def _acknowledge(self, dialog: Dialog, transaction: ClientInvite, response: Response) -> list[Action]:
        # §22.1: the ACK carries the credentials of its INVITE
        credentials = transaction.sent.auth_headers if transaction.sent is not None else ()
        ack = dialog.build_request("ACK", response.cseq, self._via(self._new_branch()), credentials)
        transaction.success_acks[response.to.tag] = (ack, self._next_hop(dialog))
        return [Send(ack, self._next_hop(dialog))]

    def _leg_of(self, response: Response, source: Address) -> Dialog:
        """A dialog that lives only to be ended."""
        leg = Dialog(
            self._new_token(), False, response.call_id, without_tag(response.from_), response.from_.tag,
            without_tag(response.to), source, DialogState.ENDED, response.to.tag, response.to.uri,
            local_cseq=response.cseq,
        )  # fmt: skip
        leg.learn_route(response)
        leg.learn_target(response)
        return leg


def _given_up(dialog: Dialog) -> EndCause:
    return EndCause.NO_ANSWER if dialog.ring_timed_out else EndCause.LOCAL_CANCEL
