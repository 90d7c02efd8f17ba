"""The ladder of SIP messages: what stands in a line, and what never does."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, strategies as st

from cli.sip_ladder import WIDTH, Ladder, arrow, media_summary, read, without_credentials
from libs.contracts.events import SipTraced

AT = datetime(2026, 3, 1, 9, 0, tzinfo=UTC)
SDP = "v=0\r\no=- 1 1 IN IP4 10.0.0.7\r\ns=-\r\nc=IN IP4 10.0.0.7\r\nt=0 0\r\n"
OFFER = SDP + "m=audio 4000 RTP/AVP 9 8 0 101\r\na=rtpmap:101 telephone-event/8000\r\na=sendonly\r\n"
INVITE = (
    "INVITE sip:100@127.0.0.1 SIP/2.0\r\nVia: SIP/2.0/UDP 10.0.0.7;branch=z9hG4bK1\r\nCall-ID: a@b\r\n"
    f"CSeq: 1 INVITE\r\nContent-Type: application/sdp\r\nContent-Length: {len(OFFER)}\r\n\r\n{OFFER}"
)


def traced(text: str, ms: int = 0, direction: str = "in", peer: str = "10.0.0.7:5070") -> SipTraced:
    return SipTraced(
        event_id="x", org="default", call="c", at=AT + timedelta(milliseconds=ms), direction=direction,
        local="127.0.0.1:5060", peer=peer, text=text,
    )  # fmt: skip


def test_a_message_becomes_title_cseq_and_media() -> None:
    line = read(INVITE)
    assert (line.title, line.number, line.method, line.dialog) == ("INVITE sip:100@127.0.0.1", "1", "INVITE", "a@b")
    assert line.media == "G722,PCMA,PCMU,telephone-event 10.0.0.7:4000 sendonly"
    assert read("BYE sip:a@b;transport=UDP;lr SIP/2.0\r\n\r\n").title == "BYE sip:a@b"
    assert read("SIP/2.0 486 Busy Here\r\nCSeq: 2 INVITE\r\n\r\n").title == "486 Busy Here"
    assert read("BYE sip:a SIP/2.0\r\ni: compact\r\n\r\n").dialog == "compact"


def test_a_session_description_is_told_with_its_own_address_and_whether_it_is_encrypted() -> None:
    own = "m=audio 5000 RTP/SAVP 8\r\nc=IN IP6 2001:db8::7\r\na=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:a\r\n"
    assert media_summary(SDP + own) == "PCMA 2001:db8::7:5000 SRTP"
    assert media_summary("") == ""


def test_the_ladder_has_times_arrows_and_marks_repetitions() -> None:
    ladder = Ladder()
    answer = "SIP/2.0 100 Trying\r\nCSeq: 1 INVITE\r\n\r\n"
    steps = [traced(INVITE), traced(answer, 2, "out"), traced(INVITE, 502), traced(answer, 503, "out", "10.0.0.8:5060")]
    rows = [line.plain for step in steps for line in ladder.lines(step)]
    assert len(rows) == 6  # a heading in the beginning, and where the peer changes
    assert "127.0.0.1:5060" in rows[0]
    assert "10.0.0.7:5070" in rows[0]
    assert rows[1].startswith("    0.000 s      +0  │◀")
    assert rows[2].startswith("    0.002 s      +2  │─")
    assert "100 Trying" in rows[2]
    assert "(repeated)" not in rows[1] + rows[2] + rows[5]
    assert "(repeated)" in rows[3]
    assert rows[3].startswith("    0.502 s    +500  │◀")
    assert "10.0.0.8:5060" in rows[4]


@given(st.sampled_from(["in", "out"]), st.text(max_size=200))
def test_arrows_are_all_of_one_width(direction: str, title: str) -> None:
    assert len(arrow(direction, title)) == WIDTH + 2


SECRETS = [
    'Authorization: Digest username="u", realm="r", nonce="n", response="SECRET"',
    'proxy-authorization : Digest username="u",\r\n response="SECRET"',
    "AUTHORIZATION:Basic SECRET",
    "Contact: <sip:user:SECRET@10.0.0.7>",
]


@pytest.mark.parametrize("header", SECRETS)
def test_credentials_in_headers_are_removed(header: str) -> None:
    clean = without_credentials(INVITE.replace("CSeq:", f"{header}\r\nCSeq:"))
    assert "SECRET" not in clean
    assert "CSeq: 1 INVITE\r\n" in clean
    assert clean.endswith(OFFER)
    assert without_credentials(clean) == clean


def test_keys_of_srtp_are_removed_and_the_length_stays_true() -> None:
    crypto = "a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:SECRETKEY0|2^20|1:4 UNENCRYPTED_SRTCP\r\nk=clear:SECRET\r\n"
    text = INVITE + crypto
    clean = without_credentials(text)
    assert "SECRET" not in clean
    assert len(clean) == len(text)
    assert "inline:**********|2^20|1:4 UNENCRYPTED" in clean


def test_a_message_without_credentials_stays_as_it_is() -> None:
    assert without_credentials(INVITE) == INVITE
    challenge = 'SIP/2.0 401 Unauthorized\r\nWWW-Authenticate: Digest realm="r", nonce="n"\r\n\r\n'
    assert without_credentials(challenge) == challenge  # a nonce opens nothing


@given(st.text())
def test_whatever_a_message_is_it_is_shown(text: str) -> None:
    assert Ladder().lines(traced(text))
    without_credentials(text)
