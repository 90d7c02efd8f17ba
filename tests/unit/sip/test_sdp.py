import base64
from dataclasses import replace

import pytest
from hypothesis import given, strategies as st

from libs.sip.errors import NoCommonCodec, SdpError
from libs.sip.sdes import SUITES, CryptoKey, usable_keys
from libs.sip.sdp import (
    Direction,
    LocalMedia,
    SessionDescription,
    accept_answer,
    local_media,
    make_offer,
    negotiate,
)

LOCAL = LocalMedia("192.0.2.20", 50000, session_id=9)

OPUS_FIRST = """v=0
o=- 4611 2 IN IP4 192.0.2.10
s=-
c=IN IP4 192.0.2.10
t=0 0
m=audio 40000 RTP/AVP 111 9 8 0 110 126
a=rtpmap:111 opus/48000/2
a=rtpmap:9 G722/8000
a=rtpmap:8 PCMA/8000
a=rtpmap:110 telephone-event/48000
a=rtpmap:126 telephone-event/8000
a=fmtp:126 0-16
a=ptime:30
"""


def offer(**replacements: str) -> SessionDescription:
    text = OPUS_FIRST
    for old, new in replacements.items():
        text = text.replace({"formats": "111 9 8 0 110 126", "port": "40000", "c": "c=IN IP4 192.0.2.10"}[old], new)
    return SessionDescription.parse(text)


def test_an_opus_first_offer_settles_on_g711_in_the_offerers_order_with_its_payload_types():
    agreed = negotiate(offer(), LOCAL)
    assert (agreed.codec, agreed.payload_type, agreed.telephone_event_pt) == ("PCMA", 8, 126)
    assert (agreed.remote_host, agreed.remote_port, agreed.ptime_ms) == ("192.0.2.10", 40000, 30)
    (line,) = agreed.answer.media
    assert line.formats == ("8", "126")
    assert ("fmtp", "126 0-15") in line.attributes


def test_a_dynamic_payload_type_for_g711_is_kept():
    text = OPUS_FIRST.replace("111 9 8 0 110 126", "96").replace("111 opus/48000/2", "96 pcmu/8000")
    agreed = negotiate(SessionDescription.parse(text), LOCAL)
    assert (agreed.codec, agreed.payload_type, agreed.telephone_event_pt) == ("PCMU", 96, None)
    assert ("rtpmap", "96 PCMU/8000") in agreed.answer.media[0].attributes


def test_other_media_lines_are_refused_in_place():
    text = OPUS_FIRST.replace("m=audio", "m=video 1234 RTP/AVP 31\nm=audio") + "m=audio 5000 RTP/AVP 0\n"
    answer = negotiate(SessionDescription.parse(text), LOCAL).answer
    assert [(line.kind, line.port) for line in answer.media] == [("video", 0), ("audio", 50000), ("audio", 0)]


def test_no_common_codec_is_said_in_one_sentence():
    with pytest.raises(NoCommonCodec, match="offered G722, OPUS/2"):
        negotiate(offer(formats="111 9"), LOCAL)
    with pytest.raises(NoCommonCodec):
        negotiate(offer(port="0"), LOCAL)
    with pytest.raises(NoCommonCodec):
        negotiate(SessionDescription.parse(OPUS_FIRST.replace("RTP/AVP", "RTP/SAVP")), LOCAL)


def test_an_audio_line_without_any_address_is_an_error():
    with pytest.raises(SdpError, match="c= line"):
        negotiate(offer(c="b=AS:64"), LOCAL)


@pytest.mark.parametrize(
    ("said", "ours"),
    [("sendonly", "recvonly"), ("recvonly", "sendonly"), ("inactive", "inactive"), ("sendrecv", "sendrecv")],
)
def test_directions_are_mirrored_at_media_and_session_level(said, ours):
    assert negotiate(SessionDescription.parse(OPUS_FIRST + f"a={said}\n"), LOCAL).direction == ours
    at_session = OPUS_FIRST.replace("t=0 0", f"t=0 0\na={said}")
    assert negotiate(SessionDescription.parse(at_session), LOCAL).direction == ours


def test_the_address_zero_means_hold():
    agreed = negotiate(offer(c="c=IN IP4 0.0.0.0"), LOCAL)
    assert agreed.direction is Direction.RECVONLY


def test_we_can_hold_too():
    agreed = negotiate(offer(), LocalMedia("192.0.2.20", 50000, direction=Direction.SENDONLY))
    assert agreed.direction is Direction.SENDONLY


@pytest.mark.parametrize("codecs", [("PCMU",), ("PCMA", "PCMU"), ("PCMU", "PCMA")])
def test_offer_and_answer_agree_on_both_sides(codecs):
    ours = make_offer(LocalMedia("192.0.2.10", 40000, codecs=codecs))
    theirs = negotiate(SessionDescription.parse(ours.serialize()), LOCAL)
    agreed = accept_answer(ours, SessionDescription.parse(theirs.answer.serialize()))
    assert (
        (agreed.codec, agreed.payload_type) == (theirs.codec, theirs.payload_type) == (codecs[0], agreed.payload_type)
    )
    assert agreed.telephone_event_pt == theirs.telephone_event_pt == 101
    assert (agreed.remote_host, agreed.remote_port) == ("192.0.2.20", 50000)


def test_an_answer_that_refuses_or_invents_is_not_accepted():
    ours = make_offer(LocalMedia("192.0.2.10", 40000, codecs=("PCMU",)))
    answer = negotiate(ours, LOCAL).answer.serialize()
    for wrong in (
        answer.replace("audio 50000", "audio 0"),
        answer.replace("0 101", "8 101").replace("0 PCMU", "8 PCMA"),
    ):
        with pytest.raises(NoCommonCodec):
            accept_answer(ours, SessionDescription.parse(wrong))


def test_ipv6_addresses_are_written_as_ip6():
    text = make_offer(LocalMedia("2001:db8::1", 40000)).serialize()
    assert "c=IN IP6 2001:db8::1" in text
    assert SessionDescription.parse(text).host == "2001:db8::1"


def test_what_we_said_can_be_read_back():
    local = LocalMedia("192.0.2.10", 40000, session_id=7, session_version=3)
    assert local_media(make_offer(local), ("PCMU", "PCMA")) == local
    with pytest.raises(SdpError):
        local_media(offer(port="0"), ("PCMU",))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "v=1",
        "v=0\no=- x 1 IN IP4 h",
        "v=0\nm=audio 1",
        "v=0\nm=audio 99999 RTP/AVP 0",
        "v=0\nnonsense",
        "v=0\nc=IN IP4",
        "v=0\ns=-",
    ],
)
def test_broken_descriptions_raise(text):
    with pytest.raises(SdpError):
        SessionDescription.parse(text)


@given(st.lists(st.sampled_from(OPUS_FIRST.splitlines()), max_size=30), st.text(max_size=40))
def test_any_mixture_of_lines_parses_or_raises_sdp_error(lines, noise):
    try:
        session = SessionDescription.parse("\n".join([*lines, noise]))
        SessionDescription.parse(session.serialize())
        negotiate(session, LOCAL)
    except SdpError:
        pass


@pytest.mark.parametrize("host", ["media.example.com", "localhost", "1.2.3", "127.1"])
def test_a_name_in_the_connection_line_is_read_but_no_place_to_send_media_to(host):
    theirs = offer(c=f"c=IN IP4 {host}")
    assert theirs.host == host
    with pytest.raises(SdpError, match="is a name, not an address"):
        negotiate(theirs, LOCAL)
    ours = make_offer(LOCAL)
    with pytest.raises(SdpError, match="is a name, not an address"):
        accept_answer(ours, SessionDescription.parse(make_offer(LocalMedia(host, 40000)).serialize()))


# -- wideband, packet times, RTCP -------------------------------------------------------------------------------


def test_g722_is_taken_in_the_offerers_order_when_we_speak_it():
    agreed = negotiate(offer(), LocalMedia("192.0.2.20", 50000, ("PCMU", "G722")))
    assert (agreed.codec, agreed.payload_type) == ("G722", 9)
    assert ("rtpmap", "9 G722/8000") in agreed.answer.media[0].attributes


def test_g722_is_offered_under_its_static_payload_type_and_its_absurd_clock():
    wideband = make_offer(LocalMedia("192.0.2.20", 50000, ("G722", "PCMA")))
    assert wideband.media[0].formats == ("9", "8", "101")
    assert accept_answer(wideband, negotiate(wideband, LOCAL).answer).codec == "PCMA"
    theirs = negotiate(wideband, LocalMedia("192.0.2.30", 6000, ("PCMA", "G722")))
    assert accept_answer(wideband, theirs.answer).codec == "G722"


def with_lines(*lines: str) -> SessionDescription:
    return SessionDescription.parse(OPUS_FIRST + "".join(f"{line}\n" for line in lines))


@pytest.mark.parametrize(
    ("lines", "expected"),
    [((), 30), (("a=maxptime:10",), 10), (("a=maxptime:150",), 30), (("a=maxptime:x",), 30), (("a=maxptime:0",), 30)],
)
def test_no_packet_is_longer_than_maxptime(lines, expected):
    assert negotiate(with_lines(*lines), LOCAL).ptime_ms == expected


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("a=x", ("192.0.2.10", 40001)),
        ("a=rtcp:53020", ("192.0.2.10", 53020)),
        ("a=rtcp:53020 IN IP4 192.0.2.99", ("192.0.2.99", 53020)),
        ("a=rtcp:53020 IN IP4 media.example.com", ("192.0.2.10", 53020)),
        ("a=rtcp:99999", ("192.0.2.10", 40001)),
        ("a=rtcp:", ("192.0.2.10", 40001)),
    ],
)
def test_rtcp_goes_to_the_next_port_or_where_rfc_3605_says(line, expected):
    assert negotiate(with_lines(line), LOCAL).remote_rtcp == expected


def test_one_port_for_both_is_accepted_when_offered_and_used_when_accepted():
    assert not negotiate(offer(), LOCAL).rtcp_mux
    agreed = negotiate(with_lines("a=rtcp-mux"), LOCAL)
    assert agreed.rtcp_mux
    assert ("rtcp-mux", None) in agreed.answer.media[0].attributes
    ours = make_offer(replace(LOCAL, rtcp_mux=True))
    answer = negotiate(ours, LOCAL).answer
    assert accept_answer(ours, answer).rtcp_mux
    without = replace(answer.media[0], attributes=())
    assert not accept_answer(ours, replace(answer, media=(without,))).rtcp_mux
    assert not accept_answer(make_offer(LOCAL), answer).rtcp_mux


# -- SRTP -------------------------------------------------------------------------------------------------------

KEY, PEER_KEY = bytes(range(30)), bytes(range(100, 130))
ENCODED = base64.b64encode(PEER_KEY).decode()
SECURE = replace(LOCAL, srtp="required", srtp_key=KEY)


def secure(*values: str) -> SessionDescription:
    text = OPUS_FIRST.replace("RTP/AVP", "RTP/SAVP") + "".join(f"a=crypto:{value}\n" for value in values)
    return SessionDescription.parse(text)


def test_an_encrypted_offer_is_answered_with_the_first_key_we_can_serve_under_its_tag():
    bad = f"1 AES_256_CM_HMAC_SHA1_80 inline:{ENCODED}"
    good = f"7 AES_CM_128_HMAC_SHA1_32 inline:{ENCODED}|2^20"
    for policy in ("optional", "required"):
        agreed = negotiate(secure(bad, good), replace(SECURE, srtp=policy))
        assert agreed.srtp.theirs == CryptoKey("AES_CM_128_HMAC_SHA1_32", PEER_KEY, 7)
        assert agreed.srtp.ours == CryptoKey("AES_CM_128_HMAC_SHA1_32", KEY, 7)
        (line,) = agreed.answer.media
        assert line.protocol == "RTP/SAVP"
        assert usable_keys(line.attributes) == [agreed.srtp.ours]


@pytest.mark.parametrize(
    ("policy", "encrypted", "taken"),
    [
        ("off", False, True), ("off", True, False), ("optional", False, True),
        ("optional", True, True), ("required", False, False), ("required", True, True),
    ],
)  # fmt: skip
def test_the_policy_says_what_is_taken(policy, encrypted, taken):
    local = replace(SECURE, srtp=policy)
    given_offer = secure(f"1 {SUITES[0]} inline:{ENCODED}") if encrypted else offer()
    if not taken:
        with pytest.raises(NoCommonCodec, match=f"SRTP is {policy} here"):
            negotiate(given_offer, local)
        return
    agreed = negotiate(given_offer, local)
    assert (agreed.srtp is not None) is encrypted
    assert agreed.answer.media[0].is_secure is encrypted


def test_of_two_lines_the_one_that_the_policy_allows_is_taken():
    both = SessionDescription.parse(OPUS_FIRST + f"m=audio 40002 RTP/SAVP 0\na=crypto:1 {SUITES[0]} inline:{ENCODED}\n")
    assert [line.port for line in negotiate(both, LOCAL).answer.media] == [50000, 0]
    assert [line.port for line in negotiate(both, SECURE).answer.media] == [0, 50000]


@pytest.mark.parametrize("suite", SUITES)
def test_both_ends_of_an_encrypted_offer_hold_the_same_keys(suite):
    ours = make_offer(SECURE)
    chosen = tuple(a for a in ours.media[0].attributes if a[0] != "crypto" or suite in a[1])
    seen = replace(ours, media=(replace(ours.media[0], attributes=chosen),))
    theirs = negotiate(SessionDescription.parse(seen.serialize()), replace(SECURE, srtp_key=PEER_KEY))
    agreed = accept_answer(ours, SessionDescription.parse(theirs.answer.serialize()))
    assert (agreed.srtp.ours, agreed.srtp.theirs) == (theirs.srtp.theirs, theirs.srtp.ours)
    assert agreed.srtp.ours.suite == suite


def test_an_answer_that_drops_the_encryption_or_its_key_is_no_answer():
    ours = make_offer(SECURE)
    answer = negotiate(ours, replace(SECURE, srtp_key=PEER_KEY)).answer
    plain = replace(answer.media[0], protocol="RTP/AVP")
    with pytest.raises(NoCommonCodec, match="RTP/AVP where RTP/SAVP was offered"):
        accept_answer(ours, replace(answer, media=(plain,)))
    with pytest.raises(NoCommonCodec, match="no key"):
        accept_answer(ours, replace(answer, media=(replace(answer.media[0], attributes=()),)))
    with pytest.raises(NoCommonCodec, match="RTP/SAVP where RTP/AVP was offered"):
        accept_answer(make_offer(LOCAL), answer)


def test_a_new_offer_within_the_call_keeps_our_key_and_cannot_drop_the_encryption():
    agreed = negotiate(secure(f"1 {SUITES[0]} inline:{ENCODED}"), SECURE)
    again = local_media(agreed.answer, ("PCMA",))
    assert (again.srtp, again.srtp_key) == ("required", KEY)
    with pytest.raises(NoCommonCodec):
        negotiate(offer(), again)
    renewed = base64.b64encode(KEY).decode()
    assert negotiate(secure(f"1 {SUITES[0]} inline:{renewed}"), again).srtp.theirs.master == KEY


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ("", "a tag, a suite and a key"),
        (f"x {SUITES[0]} inline:{ENCODED}", "a tag, a suite and a key"),
        (f"1 F8_128_HMAC_SHA1_80 inline:{ENCODED}", "none of AES_CM_128"),
        (f"1 {SUITES[0]} inline:{ENCODED[:-4]}", "has 27 bytes, not 30"),
        (f"1 {SUITES[0]} inline:?{ENCODED}", "not base64"),
        (f"1 {SUITES[0]} uri:{ENCODED}", "one inline key"),
        (f"1 {SUITES[0]} inline:{ENCODED}|2^20|1:4", "master key identifier"),
        (f"1 {SUITES[0]} inline:{ENCODED};inline:{ENCODED}", "one inline key"),
        (f"1 {SUITES[0]} inline:{ENCODED} UNENCRYPTED_SRTP", "session parameters"),
    ],
)
def test_a_key_that_cannot_be_served_is_refused_without_repeating_it(value, sentence):
    with pytest.raises(SdpError, match=sentence) as refused:
        CryptoKey.parse(value)
    assert ENCODED[:10] not in str(refused.value)


def test_a_key_is_read_with_a_lifetime_and_a_window():
    assert CryptoKey.parse(f"3 {SUITES[0]} inline:{ENCODED}|2^31 WSH=64") == CryptoKey(SUITES[0], PEER_KEY, 3)


def test_no_repr_tells_a_key():
    agreed = negotiate(secure(f"1 {SUITES[0]} inline:{ENCODED}"), SECURE)
    told = repr((agreed, agreed.answer, SECURE, agreed.srtp, make_offer(SECURE)))
    assert ENCODED[:10] not in told
    assert base64.b64encode(KEY).decode()[:10] not in told
    assert repr(KEY)[2:20] not in told


def test_encryption_without_a_key_of_ours_is_a_mistake_of_the_caller():
    with pytest.raises(ValueError, match="30 bytes"):
        LocalMedia("192.0.2.20", 50000, srtp="optional")
