"""A SIP user agent without I/O: messages and `now` in, actions out (RFC 3261, UAC and UAS; UDP, TCP or TLS).

Theory of operation. `receive` reads a datagram, finds its transaction (branch and sent-by, §17.1.3 and §17.2.3) and
lets that absorb repeats. What is new goes on to its dialog (Call-ID and both tags, §12) or, outside dialogs, makes a
new one. `uas` holds the called side, `uac` the calling side, `session_layer` offers and session timers of a confirmed
dialog, `transfers` REFER, `dialog_layer` what they share; this file dispatches. Commands and timers take the same way
down.

Requests of ours are kept as they were asked for (`SentRequest`) beside their client transaction. A 401 or 407 gives a
new transaction for the same request with the next CSeq; the old one only acknowledges repeats of its challenge. An
offer that met 491 waits in its dialog. Neither is told to the application unless it fails for good.

Registrations share the socket and the transactions, nothing else. A `Registration` core decides when a REGISTER goes
out and what it says; `registration_layer` puts it into a client transaction marked with the registration's name, and
the final response or time-out goes back by branch. Its deadline is one more entry of the heap.

A shell learns from `Registered`, `RegistrationFailed` and `Unregistered`, reads `registrations` for metrics, and calls
`network_returned` when addresses changed. Callers without a registration may be asked for a password: `doorkeeper`
gives the asking side for a source, and the 401 leaves no state.

Over TCP and TLS the same machines run with other timers, and a destination stands for a connection. The shell opens it
when something is to be sent and reports its end with `connection_lost`; what waited for an answer from there has failed
then (§8.1.3.1), dialogs live on and find another way.

All timers share one heap: the shell arms a single timer for `deadline()` and calls `expire(now)`. Nothing here raises
on what a peer sends: it is answered, or dropped and counted by reason in `counters`. Ids, tags and random waits come
from `new_token`.
"""

from __future__ import annotations

from dataclasses import replace

from libs.sip.dialog import Address, DialogState
from libs.sip.dialog_layer import TransactionKey, UaConfig, check_path, client_key, server_key
from libs.sip.errors import SipParseError
from libs.sip.events import Action, EndCause, Ended, Send
from libs.sip.message import BadRequest, Reply, Request, Response, build_error, parse
from libs.sip.registration_layer import RegistrationLayer
from libs.sip.screening import ALLOW, EXTENSIONS, screen
from libs.sip.stream import PONG
from libs.sip.transaction import ClientInvite, ClientNonInvite, ServerInvite, ServerNonInvite, State, Transaction
from libs.sip.uac import OutgoingCall, Uac
from libs.sip.uas import Uas

__all__ = ["OutgoingCall", "UaConfig", "UserAgent"]


class UserAgent(Uas, Uac, RegistrationLayer):
    """Any number of calls over one transport. See the module's theory of operation."""

    @property
    def unanswered_requests(self) -> int:
        """Requests of ours that still wait for a final response; a shell may linger for them before it closes."""
        waiting = (State.CALLING, State.TRYING, State.PROCEEDING)
        clients = (t for t in self._transactions.values() if isinstance(t, ClientInvite | ClientNonInvite))
        return sum(transaction.state in waiting for transaction in clients)

    # -- time ---------------------------------------------------------------------------------------------------

    def deadline(self) -> float | None:
        """When `expire` wants to be called, None when nothing waits."""
        return self._deadlines.earliest()

    def expire(self, now: float) -> list[Action]:
        """Run every timer that is due."""
        actions: list[Action] = []
        while (key := self._deadlines.pop_due(now)) is not None:
            if key[0] != "transaction":
                actions += self._expire_part(key[0], key[1], now)
                continue
            transaction = self._transactions.get(key[1:])
            if transaction is None:
                continue
            branch = key[1]
            expiry = transaction.expire(now)
            if expiry.resend is not None:
                self.counters["retransmissions"] += 1
                actions.append(Send(expiry.resend, transaction.destination))
            self._rearm(key[1:], transaction)
            if expiry.timed_out:
                self.counters["transaction_timeouts"] += 1
                self._timed_out(transaction, branch, now, actions)
        return actions

    def _expire_part(self, part: str, owner: str, now: float) -> list[Action]:
        match part:
            case "dialog":
                actions: list[Action] = []
                self._expire_dialog(owner, now, actions)
                return actions
            case "session":
                return self._expire_session(owner, now)
            case "offer":
                return self._expire_offer(owner, now)
            case "ring":
                return self._expire_ring(owner, now)
            case _:
                return self._expire_registration(owner, now)

    # -- connections (TCP, TLS) ---------------------------------------------------------------------------------

    def uses(self, peer: Address) -> bool:
        """Whether a call, a registration or an open transaction needs the connection to this address."""
        if any(dialog.peer == peer for dialog in self._dialogs.values()):
            return True
        if any(registration.config.destination == peer for registration in self._registrations.values()):
            return True
        return any(transaction.destination == peer for transaction in self._transactions.values())

    def connection_lost(self, peer: Address, now: float) -> list[Action]:
        """The connection to `peer` ended or could not be opened.

        Requests of ours that wait for an answer from there fail at once, as with a 503 (RFC 3261 §8.1.3.1). Responses
        of ours that are repeated later go to the address that the request names (§18.2.2).
        """
        self.counters["connections_lost"] += 1
        for dialog in self._dialogs.values():
            if dialog.peer == peer:
                dialog.flow_is_open = False
        actions = self._flow_lost(peer, now)
        for key, transaction in list(self._transactions.items()):
            if transaction.destination != peer:
                continue
            if isinstance(transaction, ClientInvite | ClientNonInvite):
                actions += self._transport_failed(key, transaction, now)
            elif transaction.return_address is not None:
                transaction.destination = transaction.return_address
                dialog_of = self._dialogs.get(transaction.dialog)
                if dialog_of is not None and dialog_of.unacknowledged is not None:
                    dialog_of.unacknowledged.destination = transaction.return_address
        return actions

    def _transport_failed(
        self, key: TransactionKey, transaction: ClientInvite | ClientNonInvite, now: float
    ) -> list[Action]:
        if transaction.state not in (State.CALLING, State.TRYING, State.PROCEEDING) or transaction.message is None:
            return []
        transaction.received(503, now)
        self._rearm(key, transaction)
        if transaction.registration:
            return self._registration_cut_off(transaction.registration, key[0], now)
        sent = transaction.sent
        if sent is not None and sent.method == "BYE" and not sent.is_second_try:
            # a BYE that is lost leaves the peer in the call: once more, over a new connection to its Contact
            sent.is_second_try, sent.dialog.flow_is_open = True, False
            return self._send_request(sent, now)
        request = parse(transaction.message)
        assert isinstance(request, Request)
        response = Response(
            503, "the connection failed", {}, b"", request.via, request.from_, request.to, request.call_id,
            request.cseq, request.method,
        )  # fmt: skip
        if isinstance(transaction, ClientNonInvite):
            return self._request_answered(transaction, response, now)
        _no_ack, *actions = self._invite_failed(transaction, response, now, is_new=True)
        return actions

    # -- closing ------------------------------------------------------------------------------------------------

    @property
    def is_settled(self) -> bool:
        """Nobody owes us a final response or an ACK: the socket may be closed."""
        if self.unanswered_requests or any(dialog.unacknowledged for dialog in self._dialogs.values()):
            return False
        invites = (transaction for transaction in self._transactions.values() if isinstance(transaction, ServerInvite))
        return all(invite.state is not State.COMPLETED for invite in invites)

    def stop_waiting_for_acks(self, now: float) -> list[Action]:
        """The BYE of each dialog whose 2xx is not acknowledged, as if 64*T1 had passed (RFC 3261 §13.3.1.4)."""
        actions: list[Action] = []
        for dialog in list(self._dialogs.values()):
            if dialog.unacknowledged is not None:
                dialog.unacknowledged.give_up_at = now
                self._expire_dialog(dialog.id, now, actions)
        return actions

    # -- time-outs ----------------------------------------------------------------------------------------------

    def _timed_out(self, transaction: Transaction, branch: str, now: float, actions: list[Action]) -> None:
        if transaction.registration:
            actions += self._registration_timed_out(transaction.registration, branch, now)
            return
        dialog = self._dialogs.get(transaction.dialog)
        if isinstance(transaction, ClientNonInvite):
            actions += self._request_timed_out(transaction, now)
            return
        if dialog is None or not isinstance(transaction, ClientInvite):
            return
        if dialog.state in (DialogState.INVITING, DialogState.EARLY):
            self._end(dialog, actions, Ended(dialog.id, EndCause.TRANSACTION_TIMEOUT, 408, "no final response"))
        elif dialog.state is DialogState.CANCELLING:
            cause = EndCause.NO_ANSWER if dialog.ring_timed_out else EndCause.LOCAL_CANCEL
            self._end(dialog, actions, Ended(dialog.id, cause, None, "no answer to CANCEL"))
        elif dialog.state is DialogState.CONFIRMED:
            # RFC 3261 §12.2.1.2: no response to a request in the dialog ends it
            actions += self._send_bye(dialog, now, "")
            self._end(dialog, actions, Ended(dialog.id, EndCause.TRANSACTION_TIMEOUT, 408, "re-INVITE unanswered"))

    def _expire_dialog(self, dialog_id: str, now: float, actions: list[Action]) -> None:
        dialog = self._dialogs.get(dialog_id)
        pending = dialog.unacknowledged if dialog is not None else None
        if dialog is None or pending is None:
            return
        if pending.give_up_at <= now:
            # RFC 3261 §13.3.1.4: no ACK in 64*T1: the dialog is confirmed, but the session should be ended with BYE
            self.counters["no_ack"] += 1
            dialog.unacknowledged = None
            actions += self._send_bye(dialog, now, dialog.bye_after_ack or "")
            self._end(dialog, actions, Ended(dialog.id, EndCause.NO_ACK, None, "our 2xx was never acknowledged"))
            return
        self.counters["retransmissions"] += 1
        actions.append(Send(pending.data, pending.destination))
        pending.interval_s = min(2 * pending.interval_s, self._timers.t2_s)
        pending.repeat_at = now + pending.interval_s
        self._deadlines.set(("dialog", dialog.id), pending.deadline())

    # -- receiving ----------------------------------------------------------------------------------------------

    def receive(self, datagram: bytes, source: Address, now: float) -> list[Action]:
        """Take one datagram, or one message of a stream (`libs.sip.stream`); `source` is where it came from.

        Never raises on its content: what cannot be served is counted under its reason.
        """
        if not datagram.strip(b"\r\n\x00"):
            self.counters["keepalives"] += 1
            # RFC 5626 §4.4.1: a ping on a connection has its pong, one over UDP has none
            return [Send(PONG, source)] if self._config.is_reliable else []
        if len(datagram) > self._config.max_datagram_bytes:
            self.counters["too_large"] += 1
            return []
        try:
            message = parse(datagram)
            if not isinstance(message, Request):
                return self._receive_response(message, source, now)
            try:
                return self._receive_request(message, source, now)
            except SipParseError as error:
                # a header that only this kind of request needs (Contact, Record-Route)
                self.counters[error.reason] += 1
                return self._reply(message, source, 400, now) if message.method != "ACK" else []
        except BadRequest as bad:
            self.counters[bad.reason] += 1
            answer = None if bad.method == "ACK" else build_error(bad, source, self._new_token())
            return [Send(answer[0], self._way_back(answer[1], source))] if answer else []
        except SipParseError as error:
            self.counters[error.reason] += 1
            return []

    def _receive_request(self, request: Request, source: Address, now: float) -> list[Action]:
        key = server_key(request)
        transaction = self._transactions.get(key)
        if isinstance(transaction, ServerInvite) and request.method == "ACK":
            if transaction.state in (State.COMPLETED, State.CONFIRMED):
                transaction.acknowledged(now)
                self._rearm(key, transaction)
                return []
        elif isinstance(transaction, ServerInvite | ServerNonInvite) and request.method != "ACK":
            self.counters["repeated_requests"] += 1
            again = transaction.repeated(now)
            return [Send(again, transaction.destination)] if again else []
        if request.method == "ACK":
            return self._receive_ack(request, now)
        if request.method == "CANCEL":
            return self._receive_cancel(request, source, now)
        refusal = screen(request)
        if refusal is not None:
            return self._reply(request, source, refusal, now)
        if request.to.tag:
            dialog = self._by_key.get((request.call_id, request.to.tag, request.from_.tag))
            early = self._by_key.get((request.call_id, request.to.tag, "")) if dialog is None else dialog
            if early is not None and early.is_inviting:
                return self._receive_early(request, source, now)
            if dialog is None or (dialog.state is DialogState.ENDED and request.method != "BYE"):
                return self._reply(request, source, 481, now)
            return self._receive_in_dialog(dialog, request, source, now)
        if request.method == "INVITE":
            return self._receive_invite(request, source, now)
        if request.method == "OPTIONS":
            # RFC 3261 §11.2
            accept = (
                ("Allow", ALLOW),
                ("Accept", "application/sdp"),
                ("Accept-Encoding", "identity"),
                ("Supported", ", ".join(EXTENSIONS)),
            )
            return self._reply(request, source, Reply(200, (*accept, self._contact)), now)
        # RFC 3515 §2.2 allows REFER outside dialogs; nobody may make us call someone without being in a call with us
        return self._reply(request, source, 403 if request.method == "REFER" else 481, now)

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
        return self._request_answered(transaction, response, now) if is_new else []

    # -- requests of ours inside a dialog -----------------------------------------------------------------------

    def _request_answered(self, transaction: ClientNonInvite, response: Response, now: float) -> list[Action]:
        """The final response to a BYE, UPDATE, REFER, NOTIFY or PRACK of ours."""
        if transaction.registration:
            return self._registration_answered(transaction.registration, response, now)
        sent = transaction.sent
        if sent is None:  # CANCEL
            return []
        reason = response.reason
        if response.status in (401, 407):
            again = self._authorize(sent, response, now)
            if isinstance(again, list):
                return again
            reason = f"{reason} ({again})"
        dialog, status = sent.dialog, response.status
        if dialog.state is not DialogState.CONFIRMED:
            return []
        if status in (408, 481) and sent.method != "NOTIFY":
            # §12.2.1.2: the peer does not know the dialog any more; a NOTIFY only loses its subscription (RFC 5057)
            actions: list[Action] = []
            self._end(dialog, actions, Ended(dialog.id, EndCause.TRANSACTION_TIMEOUT, status, reason))
            return actions
        match sent.method:
            case "UPDATE":
                return self._update_answered(sent, replace(response, reason=reason), now)
            case "REFER":
                return self._refer_result(dialog, status, reason)
            case "NOTIFY" if status >= 300:
                dialog.inbound_referral = None
        return []

    def _request_timed_out(self, transaction: ClientNonInvite, now: float) -> list[Action]:
        sent = transaction.sent
        if sent is None or sent.dialog.state is not DialogState.CONFIRMED:
            return []
        dialog = sent.dialog
        match sent.method:
            case "REFER":
                return self._refer_result(dialog, 408, "no answer to REFER")
            case "UPDATE":
                # RFC 4028 §10, RFC 3261 §12.2.1.2
                actions = self._send_bye(dialog, now, "")
                self._end(dialog, actions, Ended(dialog.id, EndCause.TRANSACTION_TIMEOUT, 408, "UPDATE unanswered"))
                return actions
        dialog.inbound_referral = None
        return []

    # -- ending -------------------------------------------------------------------------------------------------

    def bye(self, dialog: str, now: float, cause: str = "") -> list[Action]:
        """End a call in whatever state it is; `cause` becomes the Reason header. Nothing when it has ended before.

        Confirmed: BYE (after the ACK, if our 2xx still waits for it, §15). Early: CANCEL as caller, 480 as callee.
        """
        found = self._dialogs.get(dialog)
        if found is None or found.state in (DialogState.ENDED, DialogState.CANCELLING):
            return []
        if found.state is not DialogState.CONFIRMED:
            return self.reject(dialog, 480, now) if found.is_uas else self.cancel(dialog, now)
        actions: list[Action] = []
        if found.unacknowledged is not None:
            found.bye_after_ack = cause
        else:
            actions = self._send_bye(found, now, cause)
        self._end(found, actions, Ended(found.id, EndCause.LOCAL_BYE, None, cause))
        return actions
