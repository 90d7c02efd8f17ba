"""Messages out of a byte stream: any way the stream is cut gives the same messages, and nobody grows the buffer."""

import time

import pytest
from hypothesis import given, settings, strategies as st

from libs.sip.events import Send
from libs.sip.message import parse
from libs.sip.stream import MAX_MESSAGE_BYTES, PING, StreamFramer

from .link import CALLEE, STRANGER, agent
from .test_torture import cases


def message(body: bytes = b"", length: str | None = None, name: str = "Content-Length") -> bytes:
    said = str(len(body)) if length is None else length
    return (
        b"OPTIONS sip:x@192.0.2.20 SIP/2.0\r\nVia: SIP/2.0/TCP 192.0.2.99;branch=z9hG4bK1\r\n"
        b"From: <sip:a@b>;tag=1\r\nTo: <sip:x@b>\r\nCall-ID: c1\r\nCSeq: 1 OPTIONS\r\n"
        + f"{name}: {said}\r\n\r\n".encode()
        + body
    )


PIECES = [
    message(),
    message(b"v=0\r\n\r\n"),
    message(b"x" * 300, name="l"),
    message(b"ab", name="CONTENT-LENGTH "),
    PING,
]


@settings(max_examples=200)
@given(st.lists(st.sampled_from(PIECES), max_size=8), st.lists(st.integers(0, 4000), max_size=30))
def test_any_split_of_the_stream_gives_the_same_messages(sent, cuts):
    stream = b"".join(sent)
    whole = StreamFramer().feed(stream)
    assert whole == sent
    cuts = sorted(cut for cut in cuts if cut < len(stream))
    framer = StreamFramer()
    pieces = [stream[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    assert [found for piece in pieces for found in framer.feed(piece)] == whole
    assert framer.buffered_bytes == 0


@settings(max_examples=200)
@given(st.binary(max_size=400), st.integers(1, 400))
def test_random_bytes_give_the_same_in_one_piece_and_in_two(data, cut):
    one, two = StreamFramer(), StreamFramer()
    assert one.feed(data) == two.feed(data[:cut]) + two.feed(data[cut:])
    assert one.error == two.error


def test_byte_by_byte_works_and_no_byte_is_searched_twice_too_often():
    framer = StreamFramer()
    stream = message(b"x" * 5000) * 3
    assert len([found for byte in stream for found in framer.feed(bytes([byte]))]) == 3


def test_a_megabyte_of_small_messages_takes_no_quadratic_time():
    def seconds(count: int) -> float:
        framer, stream = StreamFramer(), message() * count
        start = time.process_time()
        assert len(framer.feed(stream)) == count
        return time.process_time() - start

    seconds(100)
    assert seconds(8000) < 40 * max(0.001, *(seconds(800) for _ in range(3)))


def test_a_content_length_may_stand_on_a_line_of_its_own():
    assert len(StreamFramer().feed(message(b"abc", "\r\n  3"))) == 1


def test_two_empty_lines_are_a_ping_and_one_is_none():
    framer = StreamFramer()
    assert framer.feed(b"\r\n") == []
    assert framer.feed(b"\r\n\r\n") == [PING]
    assert framer.feed(message()) == [message()]
    assert framer.feed(b"\r\n") == []


def test_where_we_opened_the_connection_empty_lines_are_pongs():
    framer = StreamFramer(is_client=True)
    assert framer.feed(b"\r\n\r\n\r\n" + message() + b"\r\n\r\n") == [message()]


@pytest.mark.parametrize(
    ("stream", "why"),
    [
        (message().replace(b"Content-Length: 0\r\n", b""), "no Content-Length"),
        (b"A" * (MAX_MESSAGE_BYTES + 1), "head is longer"),
        (message(length="999999999"), "longer than"),
        (b"INVITE x\r\n" + b"X: y\r\n" * MAX_MESSAGE_BYTES, "head is longer"),
    ],
)
def test_a_stream_that_cannot_be_followed_ends_with_the_reason(stream, why):
    framer = StreamFramer()
    assert framer.feed(message() + stream) == [message()]
    assert why in framer.error
    assert framer.feed(message()) == []
    assert framer.buffered_bytes == 0


@pytest.mark.parametrize("length", ["-1", "many", "1\r\nl: 2", "99999999999"])
def test_a_content_length_that_is_no_number_is_answered_with_400_and_ends_the_stream(length):
    framer = StreamFramer()
    (head,) = framer.feed(message(length=length))
    assert framer.error
    (answer,) = agent(CALLEE, "s", transport="tcp").receive(head, STRANGER, 0.0)
    assert answer.data.startswith(b"SIP/2.0 400")
    assert answer.destination == STRANGER


@pytest.mark.parametrize(("data", "expected"), cases())
def test_the_torture_set_over_a_stream_has_the_same_answers(data, expected):
    """Over a stream nothing can be truncated, only late; and the rest of a message is the beginning of the next."""
    core, framer = agent(CALLEE, "s", transport="tcp"), StreamFramer()
    messages = [found for found in framer.feed(data + PING) if found != PING]
    actions = [action for found in messages[:1] for action in core.receive(found, STRANGER, 0.0)]
    statuses = [int(a.data.removeprefix(b"SIP/2.0 ")[:3]) for a in actions if isinstance(a, Send)]
    if not messages:
        assert framer.error or framer.buffered_bytes
    elif expected == "call":
        assert statuses == [100]
    elif expected == "drop":
        assert statuses == []
    else:
        assert statuses == [int(expected)]
    assert all(action.destination == STRANGER for action in actions if isinstance(action, Send))


def test_a_ping_is_answered_over_a_connection_and_not_over_udp():
    assert agent(CALLEE, "s", transport="tcp").receive(PING, STRANGER, 0.0) == [Send(b"\r\n", STRANGER)]
    assert agent(CALLEE, "s").receive(PING, STRANGER, 0.0) == []


def test_what_comes_out_is_what_the_parser_reads():
    (found,) = StreamFramer().feed(message(b"abc"))
    assert parse(found).body == b"abc"
