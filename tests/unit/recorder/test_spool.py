"""Files of the recorder: playable at any moment, found again after a crash, never taken from a living one."""

import dataclasses
import os
import resource
import signal
import subprocess
import sys
import textwrap

import pytest

from libs.audio.wav import read_wav
from services.recorder.spool import Label, Spooled, left_behind, remove, require_room

LABEL = Label("default", "01CALL", "120000-rec1-1", 8000, "2026-11-21T12:00:00+00:00")


def test_a_file_can_be_played_while_it_is_written(tmp_path):
    file = Spooled.create(tmp_path, LABEL)
    file.add(b"\1\0\2\0" * 8000)
    file.flush()
    file.add(b"\1\0\2\0" * 4000)
    wav = read_wav(file.path.read_bytes())
    assert (wav.channels, wav.rate_hz, wav.duration_ms) == (2, 8000, 1000)
    file.close()
    assert read_wav(file.path.read_bytes()).duration_ms == 1500 == file.duration_ms


def test_a_key_tells_organisation_day_and_call():
    assert LABEL.key == "recordings/default/2026/11/21/01CALL/120000-rec1-1.wav"


def test_only_files_without_a_writer_are_left_behind(tmp_path):
    living = Spooled.create(tmp_path, LABEL)
    assert list(left_behind(tmp_path)) == []
    living.add(b"\0" * 4 * 800)
    living.close()
    [left] = left_behind(tmp_path)
    assert (left.label, left.duration_ms, left.size_bytes) == (LABEL, 100.0, 44 + 3200)
    remove(left.path)
    assert list(tmp_path.iterdir()) == []


def test_a_killed_recorder_leaves_a_playable_file_that_lacks_at_most_what_was_not_flushed(tmp_path):
    code = f"""
        import sys
        from pathlib import Path
        from services.recorder.spool import Label, Spooled
        file = Spooled.create(Path({str(tmp_path)!r}), Label(*{dataclasses.astuple(LABEL)!r}))
        file.add(b"\\1\\0\\2\\0" * 16000)
        file.flush()
        file._file.write(b"\\1\\0\\2\\0" * 10 + b"\\1")  # killed between the audio and its header
        print("ready", flush=True)
        sys.stdin.read()
    """
    killed = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert killed.stdout.readline() == "ready\n"
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate()
    [path] = tmp_path.glob("*.wav")
    assert read_wav(path.read_bytes()).duration_ms == 2000  # as it was left
    [left] = left_behind(tmp_path)
    assert left.duration_ms == pytest.approx(2001.25)
    assert len(read_wav(path.read_bytes()).pcm) == 4 * 16010


def test_a_file_whose_label_cannot_be_read_is_left_for_a_person(tmp_path):
    (tmp_path / "x.wav").write_bytes(b"RIFF")
    (tmp_path / "x.json").write_text("{")
    (tmp_path / "y.wav").write_bytes(b"RIFF")
    assert list(left_behind(tmp_path)) == []
    assert len(list(tmp_path.iterdir())) == 3


def test_what_is_being_stored_is_not_taken_by_another_and_a_file_of_somebody_else_stops_nobody(tmp_path):
    for part in ("a", "b"):
        Spooled.create(tmp_path, dataclasses.replace(LABEL, part=part)).close()
    (tmp_path / "01CALL.aa.wav").mkdir()  # cannot be opened
    found = left_behind(tmp_path)
    first = next(found)
    assert [left.label.part for left in left_behind(tmp_path)] == ["b"]
    assert next(found).label.part == "b"
    assert [left.path for left in left_behind(tmp_path)] == [first.path]


def test_a_full_disk_leaves_a_playable_file_with_all_that_found_room(tmp_path):
    file = Spooled.create(tmp_path, LABEL)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (44 + 4 * 800 + 2, before[1]))  # what fits is written, then no more
    try:
        file.add(b"\1\0\2\0" * 1600)
        with pytest.raises(OSError, match="large"):
            file.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert read_wav(file.path.read_bytes()).pcm == b"\1\0\2\0" * 800
    [left] = left_behind(tmp_path)
    assert left.duration_ms == 100


def test_a_spool_that_is_as_good_as_full_or_no_folder_takes_no_recording(tmp_path, monkeypatch):
    require_room(tmp_path / "made")
    assert list((tmp_path / "made").iterdir()) == []
    monkeypatch.setattr("services.recorder.spool.LEAST_FREE_BYTES", 1 << 60)
    with pytest.raises(OSError, match="No space left"):
        require_room(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="exists"):
        require_room(tmp_path / "file")
