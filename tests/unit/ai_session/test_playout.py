from __future__ import annotations

from hypothesis import given, settings, strategies as st

from services.ai_session.playout import Drained, Flushed, PartBegan, PartDone, Playout

FRAME = 160


def pcm(samples):
    return b"\x01\x00" * samples


def all_frames(playout):
    frames = []
    while (frame := playout.next_frame()) is not None:
        frames.append(frame)
    return frames


def test_the_lead_is_200_ms_and_each_played_frame_lets_one_more_out():
    playout = Playout(8000)
    playout.push("r", ("a", 0), pcm(8000))
    assert len(all_frames(playout)) == 10
    playout.heard(FRAME)
    assert [frame.timestamp for frame in all_frames(playout)] == [1600]


def test_only_the_first_frame_after_a_pause_begins_a_talkspurt():
    playout = Playout(8000)
    playout.push("r", ("a", 0), pcm(320))
    assert [frame.talkspurt for frame in all_frames(playout)] == [True, False]
    playout.heard(320)
    playout.push("r", ("a", 0), pcm(160))
    assert [frame.talkspurt for frame in all_frames(playout)] == [True]


def test_the_last_frame_of_a_response_is_padded_and_marked():
    playout = Playout(8000)
    playout.push("r", ("a", 0), pcm(200))
    assert len(all_frames(playout)) == 1
    playout.end_response()
    (last,) = all_frames(playout)
    assert (last.end_of_response, len(last.payload), playout.sent) == (True, 320, 320)
    assert last.payload == pcm(40) + bytes(240)
    events = playout.heard(320)
    done = next(event for event in events if isinstance(event, PartDone))
    assert (done.part.heard, done.part.received) == (200, 200)  # the padding belongs to nobody
    assert isinstance(events[-1], Drained)


def test_an_end_that_comes_after_the_last_full_frame_is_an_empty_frame():
    playout = Playout(8000)
    playout.push("r", ("a", 0), pcm(160))
    all_frames(playout)
    playout.end_response()
    (mark,) = all_frames(playout)
    assert (mark.end_of_response, mark.payload, mark.timestamp) == (True, b"", 160)


def test_two_items_of_one_response_share_a_frame_and_are_told_apart():
    playout = Playout(8000)
    playout.push("r", ("a", 0), pcm(100))
    playout.end_part(("a", 0))
    playout.push("r", ("b", 0), pcm(220))
    all_frames(playout)
    playout.end_response()
    all_frames(playout)
    events = playout.heard(160)
    assert [(type(e), e.part.key[0]) for e in events] == [(PartBegan, "a"), (PartBegan, "b"), (PartDone, "a")]
    assert events[1].part.heard == 60
    assert events[1].part.from_sample == 100


def test_a_flush_is_repeated_until_acknowledged_and_fixes_what_was_heard():
    playout = Playout(8000)
    playout.push("r", ("a", 0), pcm(8000))
    all_frames(playout)
    playout.heard(480)
    flush = playout.flush()
    assert (flush.flush, flush.payload, flush.seq) == (True, b"", 10)
    assert playout.next_frame() is None
    assert playout.heard(640) == []
    assert playout.repeat_flush() == flush._replace(timestamp=1600)
    events = playout.heard(800, flushed=True)
    assert isinstance(events[0], Flushed)
    (part,) = events[0].parts
    assert (part.heard, part.received, part.complete) == (800, 8000, False)
    assert isinstance(events[1], Drained)
    assert playout.repeat_flush() is None


def test_audio_that_arrives_under_a_flush_waits_and_plays_with_the_full_lead_afterwards():
    playout = Playout(8000)
    playout.push("r", ("a", 0), pcm(8000))
    all_frames(playout)
    playout.heard(320)
    playout.flush()
    playout.push("s", ("b", 0), pcm(8000))
    assert playout.next_frame() is None
    playout.heard(320, flushed=True)
    frames = all_frames(playout)
    assert len(frames) == 10
    assert (frames[0].timestamp, frames[0].seq, frames[0].talkspurt) == (1600, 11, True)
    # The gateway's position jumps over what it threw away; nobody is credited for that.
    events = playout.heard(1760)
    assert [(type(e), e.part.key, e.part.heard) for e in events] == [(PartBegan, ("b", 0), 160)]


def test_a_second_flush_drops_what_waited_behind_the_first_and_one_acknowledgement_settles_both():
    playout = Playout(8000)
    playout.push("r", ("a", 0), pcm(8000))
    all_frames(playout)
    playout.heard(320)
    first = playout.flush()
    playout.push("s", ("b", 0), pcm(8000))
    second = playout.flush()
    assert second.seq == first.seq + 1
    assert playout.repeat_flush() == second
    flushed, drained = playout.heard(480, flushed=True)
    assert [(part.key[0], part.heard, part.sent) for part in flushed.parts] == [("a", 480, 1600), ("b", 0, 0)]
    assert isinstance(drained, Drained)
    assert all_frames(playout) == []
    assert playout.repeat_flush() is None


def test_a_part_that_ends_under_the_flush_may_have_been_heard_completely():
    playout = Playout(8000)
    playout.push("r", ("a", 0), pcm(1600))
    all_frames(playout)
    playout.heard(1440)
    playout.flush()
    playout.end_part(("a", 0))
    (flushed, _) = playout.heard(1600, flushed=True)
    assert flushed.parts[0].complete


def test_frames_lost_on_the_bus_are_written_off_and_the_rest_goes_on():
    playout = Playout(8000)
    playout.push("r", ("a", 0), pcm(4800))
    playout.end_response()
    all_frames(playout)
    playout.heard(160)  # one frame arrived, then the broker restarted
    all_frames(playout)
    for _ in range(24):
        assert playout.heard(160) == []
        assert all_frames(playout) == []
    playout.heard(160)
    assert len(all_frames(playout)) == 10
    assert playout.written_off == 1600
    playout.heard(playout.sent)
    all_frames(playout)
    events = playout.heard(playout.sent)
    assert [type(e) for e in events] == [PartDone, Drained]
    assert (events[0].part.heard, events[0].part.lost) == (3200, 1600)


def test_nothing_is_written_off_while_the_call_is_about_to_be_answered():
    playout = Playout(8000)
    playout.push("r", ("a", 0), pcm(4800))
    all_frames(playout)
    for _ in range(100):
        playout.heard(0)
    assert playout.written_off == 0


def test_on_hold_nothing_goes_out_and_no_progress_is_no_loss():
    playout = Playout(8000)
    playout.push("r", ("a", 0), pcm(8000))
    sent = len(all_frames(playout))
    playout.heard(160)
    playout.paused = True
    assert playout.next_frame() is None
    for _ in range(200):
        playout.heard(160)
    assert playout.written_off == 0
    playout.paused = False
    assert (sent, len(all_frames(playout))) == (10, 1)


def test_a_position_beyond_what_was_sent_is_clamped():
    playout = Playout(8000)
    playout.push("r", ("a", 0), pcm(160))
    playout.end_response()
    all_frames(playout)
    playout.heard(10**9)
    assert playout.played == 160


def test_continuous_audio_has_no_lead_limit_and_counts_timestamps():
    playout = Playout(16000, continuous=True)
    frames = [playout.passthrough(pcm(320)) for _ in range(50)]
    assert [frame.timestamp for frame in frames] == [320 * n for n in range(50)]
    assert [frame.talkspurt for frame in frames] == [True] + [False] * 49


steps = st.lists(
    st.one_of(
        st.tuples(st.just("push"), st.integers(0, 3), st.integers(1, 900)),
        st.tuples(st.just("end"), st.integers(0, 3), st.just(0)),
        st.tuples(st.just("response_done"), st.just(0), st.just(0)),
        st.tuples(st.just("play"), st.integers(0, 12), st.just(0)),
        st.tuples(st.just("stuck"), st.just(0), st.just(0)),
        st.tuples(st.just("flush"), st.just(0), st.just(0)),
        st.tuples(st.just("ack"), st.integers(0, 12), st.just(0)),
    ),
    max_size=60,
)


@settings(max_examples=300, deadline=None)
@given(steps)
def test_no_sequence_of_events_credits_more_than_was_sent_or_breaks_the_positions(script):
    playout = Playout(8000)
    parts, sent_seq, next_timestamp, names = {}, -1, 0, 0
    for verb, a, b in script:
        if verb == "push":
            key = (f"{names}-{a}", 0)
            playout.push("r", key, pcm(b))
        elif verb == "end":
            playout.end_part((f"{names}-{a}", 0))
        elif verb == "response_done":
            playout.end_response()
            names += 1
        elif verb in ("play", "ack"):
            for event in playout.heard(playout.played + a * FRAME, flushed=verb == "ack"):
                for part in getattr(event, "parts", ()) or ([event.part] if hasattr(event, "part") else ()):
                    parts[part.key] = part
        elif verb == "stuck":
            for _ in range(150):
                playout.heard(playout.played)
        else:
            sent_seq = playout.flush().seq
            names += 1
        for frame in all_frames(playout):
            assert frame.seq == sent_seq + 1
            assert frame.timestamp == next_timestamp
            sent_seq, next_timestamp = frame.seq, frame.timestamp + len(frame.payload) // 2
        assert playout.sent == next_timestamp
        assert playout.played <= playout.sent
        for part in parts.values():
            assert 0 <= part.heard + part.lost <= part.sent <= part.received
    assert sum(part.heard for part in parts.values()) <= playout.played
