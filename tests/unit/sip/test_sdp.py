import pytest
from hypothesis import given, strategies as st

from libs.sip.errors import NoCommonCodec, SdpError
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
