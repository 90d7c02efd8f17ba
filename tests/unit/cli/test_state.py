"""What `up` leaves behind, and that `down` ends exactly that."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from rich.console import Console

from cli import up
from cli.errors import CliError
from cli.settings import CliSettings
from cli.state import ProcessIdentity, UpState, end, read_state, remove_state, replace_file, running

SLEEPER = [sys.executable, "-S", "-c", "print(flush=True); input()"]
DEAF = [
    sys.executable,
    "-S",
    "-c",
    "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); input()",
]


@contextmanager
def process(command: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        try:
            assert child.stdout is not None
            child.stdout.readline()  # it runs
            yield child
        finally:
            child.kill()


def test_what_is_written_is_read_and_a_living_supervisor_is_running(tmp_path: Path) -> None:
    path = tmp_path / "run" / "up.json"
    me = ProcessIdentity.of(os.getpid())
    state = UpState(supervisor=me, processes={"x": me}, nats_url="nats://127.0.0.1:1", sip="127.0.0.1:5060")
    state.write(path)
    assert read_state(path) == state
    assert running(path) == state


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"supervisor": 1}'])
def test_a_file_that_makes_no_sense_is_no_state(tmp_path: Path, content: str) -> None:
    path = tmp_path / "up.json"
    path.write_text(content)
    assert read_state(path) is None


def test_a_pid_with_another_start_time_is_somebody_else() -> None:
    me = ProcessIdentity.of(os.getpid())
    assert me.process() is not None
    assert ProcessIdentity(pid=me.pid, started_at=me.started_at - 5).process() is None


def test_a_zombie_is_gone() -> None:
    child = subprocess.Popen([sys.executable, "-S", "-c", "input()"], stdin=subprocess.PIPE)
    identity = ProcessIdentity.of(child.pid)
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # dead, and not yet reaped
    assert identity.process() is None
    child.communicate()


def test_end_spares_a_process_that_only_has_the_pid() -> None:
    with process(SLEEPER) as mine, process(SLEEPER) as other:
        theirs = ProcessIdentity.of(other.pid)
        stale = ProcessIdentity(pid=other.pid, started_at=theirs.started_at - 100)
        assert end([ProcessIdentity.of(mine.pid), stale], grace_s=5) == 1
        assert mine.wait(5) is not None
        assert other.poll() is None


def test_end_kills_who_does_not_listen_and_says_so() -> None:
    told: list[str] = []
    with process(DEAF) as deaf:
        identity = ProcessIdentity.of(deaf.pid)
        assert end([identity], 0.1, told.append) == 1
        assert identity.process() is None
    assert told == [f"pid {deaf.pid} did not end within 0.1 s and was killed"]


def test_down_ends_the_orphans_of_a_supervisor_that_was_killed(tmp_path: Path) -> None:
    settings = CliSettings(callbus_var=tmp_path)
    with process(SLEEPER) as orphan:
        gone = ProcessIdentity(pid=orphan.pid, started_at=1.0)
        left = {"sip_gateway": ProcessIdentity.of(orphan.pid)}
        UpState(supervisor=gone, processes=left, nats_url="nats://x", sip="x").write(settings.state_file)
        assert running(settings.state_file) is None
        assert up.down(settings, Console(quiet=True)) is True
        assert left["sip_gateway"].process() is None
    assert not settings.state_file.exists()
    assert up.down(settings, Console(quiet=True)) is False


def test_down_does_not_say_ended_while_something_lives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = CliSettings(callbus_var=tmp_path)
    monkeypatch.setattr(up, "end", lambda *_: 1)  # another user's, or stuck in the kernel
    with process(SLEEPER) as child:
        gone = ProcessIdentity(pid=child.pid, started_at=1.0)
        state = UpState(supervisor=gone, processes={"x": ProcessIdentity.of(child.pid)}, nats_url="", sip="")
        state.write(settings.state_file)
        with pytest.raises(CliError, match=f"callbus has not ended: pid {child.pid} still runs"):
            up.down(settings, Console(quiet=True))
        assert read_state(settings.state_file) == state


def test_down_ends_a_child_that_the_state_does_not_name(tmp_path: Path) -> None:
    settings = CliSettings(callbus_var=tmp_path)
    spawn = "import subprocess,sys; print(subprocess.Popen([sys.executable, '-S', '-c', 'input()']).pid, flush=True)"
    with subprocess.Popen(
        [sys.executable, "-S", "-c", spawn + "; input()"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as supervisor:
        assert supervisor.stdout is not None
        child = ProcessIdentity.of(int(supervisor.stdout.readline()))
        UpState(supervisor=ProcessIdentity.of(supervisor.pid), nats_url="", sip="").write(settings.state_file)
        assert up.down(settings, Console(quiet=True)) is True
        assert child.process() is None


def test_a_state_is_removed_by_its_own_supervisor_only(tmp_path: Path) -> None:
    path = tmp_path / "up.json"
    me = ProcessIdentity.of(os.getpid())
    UpState(supervisor=me, nats_url="", sip="").write(path)
    remove_state(path, ProcessIdentity(pid=me.pid, started_at=me.started_at - 5))
    assert path.exists()
    remove_state(path, me)
    assert not path.exists()


def test_a_file_that_cannot_be_replaced_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "up.json").mkdir()
    with pytest.raises(OSError, match=r"directory"):
        replace_file(tmp_path / "up.json", "{}")
    assert [p.name for p in tmp_path.iterdir()] == ["up.json"]
