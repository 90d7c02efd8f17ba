"""Transfer by REFER, asked by us and asked of us, with its progress in NOTIFY (RFC 3515, RFC 3420, RFC 3892).

One transfer per dialog and direction at a time. The subscription that REFER opens lives in the dialog;
`referral_settled` keeps it open for the NOTIFYs that still come after the final one. Ours to a peer carry the CSeq
number of its REFER as id.
"""

from __future__ import annotations

import re
from urllib.parse import unquote

from libs.sip.dialog import Address, Dialog, DialogState
from libs.sip.dialog_layer import DialogLayer
from libs.sip.errors import SipParseError, SipStateError
from libs.sip.events import Action, ReferAnswered, TransferProgress, TransferRequested
from libs.sip.message import REASON_PHRASES, Reply, Request
from libs.sip.uri import NameAddr, SipUri

SUBSCRIPTION_S = 60
_STATUS_LINE = re.compile(r"\s*SIP/2\.0\s+([1-6][0-9][0-9])[ \t]*([^\r\n]*)", re.IGNORECASE)
_REPLACES = re.compile(r"[?&]replaces=([^&]*)", re.IGNORECASE)


class Transfers(DialogLayer):
    """REFER and NOTIFY inside dialogs."""

    # -- asked by us --------------------------------------------------------------------------------------------

    def refer(self, dialog: str, target_uri: str, now: float, referred_by: str = "") -> list[Action]:
        """Ask the peer to call `target_uri`; `ReferAnswered` and, if accepted, `TransferProgress` follow.

        The dialog stays: hang up when the transfer succeeded. A header after `?` (Replaces, escaped) makes it attended.
        Raises SipParseError for a target that is no URI, SipStateError outside a confirmed dialog or while a transfer
        is under way.
        """
        found = self._dialogs.get(dialog)
        if found is None or found.state is not DialogState.CONFIRMED:
            raise SipStateError(f"dialog {dialog} is not confirmed")
        if found.referral_open and not found.referral_settled:
            raise SipStateError(f"dialog {dialog} is being transferred already")
        SipUri.parse(target_uri)
        headers = [self._contact, ("Refer-To", f"<{target_uri}>"), ("User-Agent", self._config.user_agent)]
        if referred_by:
            SipUri.parse(referred_by)
            headers.append(("Referred-By", f"<{referred_by}>"))
        found.referral_open, found.referral_settled = True, False
        self.counters["transfers_asked"] += 1
        return self._request(found, "REFER", now, headers)

    def _refer_result(self, dialog: Dialog, status: int, reason: str) -> list[Action]:
        if status >= 300:
            dialog.referral_open = False
        return [ReferAnswered(dialog.id, status, reason)]

    def _receive_notify(self, dialog: Dialog, request: Request, source: Address, now: float) -> list[Action]:
        event = request.header("event").partition(";")[0].strip().lower()
        if event != "refer":
            return self._reply(request, source, Reply(489, (("Allow-Events", "refer"),)), now)
        if not dialog.referral_open:
            return self._reply(request, source, 481, now)
        actions = self._reply(request, source, 200, now)
        if dialog.referral_settled:
            return actions
        line = _STATUS_LINE.match(request.body[:400].decode("utf-8", "replace"))
        terminated = request.header("subscription-state").strip().lower().startswith("terminated")
        status, reason = (int(line[1]), line[2].strip()) if line is not None else (0, "")
        is_final = status >= 200 or terminated
        if not is_final and not status:
            return actions
        if is_final and status < 200:
            # RFC 3515 §2.4.5: the subscription may end without the result
            status, reason = 0, "the subscription ended without a result"
        dialog.referral_settled = is_final
        return [*actions, TransferProgress(dialog.id, status, reason, is_final)]

    # -- asked of us --------------------------------------------------------------------------------------------

    def _receive_refer(self, dialog: Dialog, request: Request, source: Address, now: float) -> list[Action]:
        targets = request.values("refer-to")
        try:
            if len(targets) != 1:
                raise SipParseError("REFER needs one Refer-To", "bad_refer_to")  # RFC 3515 §2.1
            target = NameAddr.parse(targets[0]).uri
            referred_by = (
                str(NameAddr.parse(request.header("referred-by")).uri) if request.header("referred-by") else ""
            )
        except SipParseError as error:
            self.counters[error.reason] += 1
            return self._reply(request, source, 400, now)
        if dialog.state is not DialogState.CONFIRMED or dialog.inbound_referral is not None:
            return self._reply(request, source, Reply(491), now)
        match = _REPLACES.search(target.text)
        replaces = unquote(match[1]) if match is not None else ""
        is_accepted = self._config.accepts_refer
        event = TransferRequested(dialog.id, target, referred_by, replaces, is_accepted)
        if not is_accepted:
            return [*self._reply(request, source, 603, now), event]
        dialog.inbound_referral = request.cseq
        actions = self._reply(request, source, Reply(202, (self._contact,)), now)
        # RFC 3515 §2.4.4: the first NOTIFY follows at once
        return [*actions, *self._notify(dialog, 100, "", now), event]

    def notify_transfer(self, dialog: str, status: int, now: float, reason: str = "") -> list[Action]:
        """Tell the peer how the call that it asked for goes; 200 and above end the subscription.

        Nothing when the dialog is gone or no transfer is under way.
        """
        found = self._dialogs.get(dialog)
        if found is None or found.state is not DialogState.CONFIRMED or found.inbound_referral is None:
            return []
        actions = self._notify(found, status, reason, now)
        if status >= 200:
            found.inbound_referral = None
        return actions

    def _notify(self, dialog: Dialog, status: int, reason: str, now: float) -> list[Action]:
        state = "terminated;reason=noresource" if status >= 200 else f"active;expires={SUBSCRIPTION_S}"
        headers = [
            self._contact, ("Event", f"refer;id={dialog.inbound_referral}"), ("Subscription-State", state),
            ("User-Agent", self._config.user_agent), ("Content-Type", "message/sipfrag;version=2.0"),
        ]  # fmt: skip
        phrase = " ".join((reason or REASON_PHRASES.get(status, "Unknown")).split())
        return self._request(dialog, "NOTIFY", now, headers, f"SIP/2.0 {status} {phrase}\r\n".encode())
