"""One `up` per directory, what it says of itself, and what nobody else may read."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from cli import up
from cli.checkout import ROOT
from cli.errors import CliError
from cli.lock import holder, only_one
from cli.ports import free_port
from cli.settings import CliSettings
from cli.state import ProcessIdentity, UpState, read_state
from cli.up import UpOptions, notes

HOLD = """
import sys
from pathlib import Path
from cli.lock import only_one
with only_one(Path(sys.argv[1])):
    print(flush=True)
    input()
"""
OPTIONS = UpOptions(workers=1, sip_port=5060, sip_host="0.0.0.0", rehearsal=None)


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[CliSettings]:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "SIP_ALLOWED_SOURCES", "SIP_SERVER"):
        monkeypatch.delenv(name, raising=False)
    before = os.umask(0o022)
    yield CliSettings(callbus_var=tmp_path / "var", _env_file=None)
    os.umask(before)


def test_a_lock_lasts_as_long_as_its_process_however_that_ends(tmp_path: Path) -> None:
    path = tmp_path / "run" / "lock"
    assert holder(path) is None
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT
    ) as other:
        assert other.stdout is not None
        other.stdout.readline()
        assert holder(path) == other.pid
        with pytest.raises(CliError, match=rf"already running here \(pid {other.pid}\)"), only_one(path):
            pass
        other.send_signal(signal.SIGKILL)
        other.wait()
        assert holder(path) is None
        with only_one(path):
            assert holder(path) == os.getpid()


def test_children_do_not_keep_the_lock(tmp_path: Path) -> None:
    with only_one(tmp_path / "lock"):
        child = subprocess.Popen(
            [sys.executable, "-S", "-c", "print(flush=True); input()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            close_fds=False,
        )
        assert child.stdout is not None
        child.stdout.readline()
    with only_one(tmp_path / "lock"):
        child.communicate(b"\n")


async def test_the_second_of_two_that_start_together_leaves_the_first_alone(settings: CliSettings) -> None:
    with only_one(settings.lock_file):  # the first, which has not written its state yet
        with pytest.raises(CliError, match="already running here"):
            await up.up(settings, OPTIONS, Console(quiet=True))
        me = ProcessIdentity.of(os.getpid())
        UpState(supervisor=me, nats_url="", sip="").write(settings.state_file)
        with pytest.raises(CliError, match="already running here"):
            await up.up(settings, OPTIONS, Console(quiet=True))
        assert read_state(settings.state_file) is not None
    assert not settings.log_dir.exists()


async def test_what_up_makes_is_for_this_user_alone(settings: CliSettings) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        options = UpOptions(workers=1, sip_port=taken.getsockname()[1], sip_host="127.0.0.1", rehearsal=None)
        with pytest.raises(CliError, match="is taken by"):
            await up.up(settings, options, Console(quiet=True))
    made = [settings.callbus_var, *settings.callbus_var.rglob("*")]
    assert len(made) == 3
    assert [oct(path.stat().st_mode & 0o077) for path in made] == ["0o0"] * 3


def test_the_page_listens_where_the_settings_say(settings: CliSettings) -> None:
    port = free_port()
    chosen = settings.model_copy(update={"browser_listen_port": port, "browser_listen_host": "0.0.0.0"})
    options = UpOptions(workers=1, sip_port=free_port(transport="udp"), sip_host="127.0.0.1", rehearsal=None)
    page = next(program for program in up.make_plan(chosen, options).services if program.name == "browser_gateway")
    assert page.where == f"http://127.0.0.1:{port}"
    assert (page.env["BROWSER_LISTEN_HOST"], page.env["BROWSER_LISTEN_PORT"]) == ("0.0.0.0", str(port))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        busy = settings.model_copy(update={"browser_listen_port": taken.getsockname()[1]})
        with pytest.raises(CliError, match=r"is taken by .*: end that program, or set another BROWSER_LISTEN_PORT"):
            up.make_plan(busy, options)


async def test_orphans_of_a_killed_up_are_ended_before_there_is_another(settings: CliSettings) -> None:
    with subprocess.Popen([sys.executable, "-S", "-c", "input()"], stdin=subprocess.PIPE) as orphan:
        left = {"catalog_tools": ProcessIdentity.of(orphan.pid)}
        gone = ProcessIdentity(pid=orphan.pid, started_at=1.0)
        UpState(supervisor=gone, processes=left, nats_url="", sip="").write(settings.state_file)
        with pytest.raises(CliError, match="still run: end them with `callbus down`"):
            await up.up(settings, OPTIONS, Console(quiet=True))
        orphan.communicate(b"\n")


def test_down_ends_an_up_that_has_not_written_its_state(settings: CliSettings) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(settings.lock_file)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT
    ) as early:
        assert early.stdout is not None
        early.stdout.readline()
        assert up.down(settings, Console(quiet=True)) is True
        early.wait(5)


def said(settings: CliSettings, **changed: object) -> str:
    return "; ".join(notes(settings.model_copy(update=changed), OPTIONS))


def test_the_notes_say_which_networks_are_answered(settings: CliSettings) -> None:
    assert "answers loopback and private networks only (SIP_ALLOWED_SOURCES)" in said(settings)
    shown = said(settings, sip_allowed_sources="217.10.64.0/20,10.0.0.7")
    assert "answers 217.10.64.0/20,10.0.0.7 only (SIP_ALLOWED_SOURCES)" in shown
    assert "private" not in shown


def test_the_notes_say_what_a_missing_key_means(settings: CliSettings) -> None:
    openai = UpOptions(workers=1, sip_port=5060, sip_host="0.0.0.0", rehearsal=False)
    assert notes(settings, openai)[0] == "no OPENAI_API_KEY: OpenAI will refuse every call"
    own = settings.model_copy(update={"openai_base_url": "http://127.0.0.1:1/v1"})
    assert notes(own, openai)[0] == "no OPENAI_API_KEY: http://127.0.0.1:1/v1 must do without"
