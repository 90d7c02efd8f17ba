"""The calling side: INVITE, its responses, ACK and CANCEL (RFC 3261 §8.1, §9.1, §13.2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from libs.sip.dialog import Address, Dialog, DialogState, without_tag
from libs.sip.dialog_layer import DialogLayer, check_path, client_key
from libs.sip.errors import SdpError, SipStateError
from libs.sip.events import Action, Answered, EndCause, Ended, ReinviteRejected, Rejected, Ringing, Send
from libs.sip.message import Response
from libs.sip.screening import ALLOW
from libs.sip.sdp import SessionDescription
from libs.sip.transaction import ClientInvite, ClientNonInvite, State
from libs.sip.uri import SipUri, format_name_addr


@dataclass(frozen=True)
class OutgoingCall:
    """One call to place. `destination` is the next hop's address; `sdp` our offer, "" for none; `headers` are added."""

    target_uri: str
    destination: Address
    from_uri: str
    from_display: str = ""
    sdp: str = ""
    headers: Sequence[tuple[str, str]] = ()


class Uac(DialogLayer):
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
        dialog = Dialog(
            self._new_token(), False, f"{self._new_token()}@{self._config.local_host}",
            format_name_addr(call.from_uri, call.from_display), self._new_token(), f"<{call.target_uri}>",
            call.destination, DialogState.INVITING, remote_target=target, local_sdp=local,
        )  # fmt: skip
        self._dialogs[dialog.id] = dialog
        self.counters["calls_placed"] += 1
        return dialog.id, self._send_invite(dialog, call.sdp, now, call.headers, call.destination)

    def reinvite(self, dialog: str, sdp: str, now: float) -> list[Action]:
        """Offer a new session in a confirmed dialog; `Answered` or `ReinviteRejected` follows (RFC 3261 §14.1).

        Raises SipStateError while another offer is open.
        """
        found = self._dialogs.get(dialog)
        if found is None or found.state is not DialogState.CONFIRMED:
            raise SipStateError(f"dialog {dialog} is not confirmed")
        if self._open_client_invite(found) or found.unacknowledged is not None:
            raise SipStateError(f"dialog {dialog} has an offer open")
        SessionDescription.parse(sdp)
        return self._send_invite(found, sdp, now, (), found.next_hop())

    def _send_invite(
        self, dialog: Dialog, sdp: str, now: float, headers: Sequence[tuple[str, str]], destination: Address
    ) -> list[Action]:
        lines = [self._contact, ("Allow", ALLOW), ("User-Agent", self._config.user_agent), *headers]
        if sdp:
            lines.append(("Content-Type", "application/sdp"))
        return self._request(dialog, "INVITE", now, lines, sdp.encode(), destination)

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

    def _receive_response(self, response: Response, source: Address, now: float) -> list[Action]:
        key = client_key(response.via.branch, response.method)
        transaction = self._transactions.get(key)
        if not isinstance(transaction, ClientInvite | ClientNonInvite):
            self.counters["stray_responses"] += 1
            return []
        if not transaction.accepts(response.status):
            self.counters["repeated_responses"] += 1
            return []
        if isinstance(transaction, ClientInvite) and 200 <= response.status < 300:
            check_path(response)  # an unreadable Contact is a damaged response: dropped before it changes anything
        is_new = transaction.received(response.status, now)
        self._rearm(key, transaction)
        if isinstance(transaction, ClientInvite):
            return self._invite_response(transaction, response, source, now, is_new)
        dialog = self._dialogs.get(transaction.dialog)
        if dialog is not None and is_new and response.status in (408, 481) and dialog.state is DialogState.CONFIRMED:
            actions: list[Action] = []
            # §12.2.1.2: the peer does not know the dialog any more
            self._end(dialog, actions, Ended(dialog.id, EndCause.TRANSACTION_TIMEOUT, response.status, response.reason))
            return actions
        return []

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
        dialog.state = DialogState.EARLY
        return [Ringing(dialog.id, response.status, self._read_sdp(response))]

    def _read_sdp(self, response: Response) -> SessionDescription | None:
        if not response.body:
            return None
        try:
            return SessionDescription.parse(response.body.decode("utf-8", "replace"))
        except SdpError:
            self.counters["bad_sdp"] += 1
            return None

    def _invite_failed(self, transaction: ClientInvite, response: Response, now: float, is_new: bool) -> list[Action]:
        """3xx to 6xx: ACK on the INVITE's branch with the response's To (§17.1.1.3); repeats get the same ACK again."""
        ack = transaction.head.follow_up("ACK", response.to.text)
        actions: list[Action] = [Send(ack, transaction.destination)]
        dialog = self._dialogs.get(transaction.dialog)
        if not is_new or dialog is None:
            return actions
        # A later answer to 401 and 407 belongs here: a new INVITE in the same dialog with the next CSeq (§22.2).
        status, reason = response.status, response.reason
        if dialog.state is DialogState.CONFIRMED:
            if status in (408, 481):
                actions += self._send_bye(dialog, now, "")
                self._end(dialog, actions, Ended(dialog.id, EndCause.TRANSACTION_TIMEOUT, status, reason))
                return actions
            return [*actions, ReinviteRejected(dialog.id, status, reason)]
        if dialog.state is DialogState.CANCELLING:
            self._end(dialog, actions, Ended(dialog.id, EndCause.LOCAL_CANCEL, status, reason))
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
            return [*self._acknowledge(leg, transaction, response), *self._send_bye(leg, now, "")]
        cancelling = dialog.state is DialogState.CANCELLING
        dialog.peer = source
        if dialog.state is not DialogState.CONFIRMED:
            dialog.remote, dialog.remote_tag = without_tag(response.to), response.to.tag
            dialog.learn_route(response)
            dialog.state = DialogState.CONFIRMED
            self._by_key[dialog.key] = dialog
        dialog.learn_target(response)
        actions = self._acknowledge(dialog, transaction, response)
        if cancelling:
            # §9.1, §15: the 200 crossed our CANCEL
            actions += self._send_bye(dialog, now, "")
            self._end(dialog, actions, Ended(dialog.id, EndCause.LOCAL_CANCEL, response.status, response.reason))
            return actions
        if transaction.offer is not None:
            dialog.local_sdp = transaction.offer
        return [*actions, Answered(dialog.id, self._read_sdp(response))]

    def _acknowledge(self, dialog: Dialog, transaction: ClientInvite, response: Response) -> list[Action]:
        ack = dialog.build_request("ACK", response.cseq, self._via(self._new_branch()))
        transaction.success_acks[response.to.tag] = (ack, dialog.next_hop())
        return [Send(ack, dialog.next_hop())]

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
