"""Files of the recorder: playable at any moment, found again after a crash, never taken from a living one."""

import dataclasses
import os
import signal
import subprocess
import sys
import textwrap

import pytest

from libs.audio.wav import read_wav
from services.recorder.spool import Label, Spooled, left_behind, remove

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
