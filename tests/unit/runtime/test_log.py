"""Lines for people and machines, without audio and without secrets."""

import base64
import json
import subprocess
import sys

import pytest

from libs.runtime.log import without_secrets

KEY = "sk-proj-abcdefghijklmnop0123456789"


def line(**fields):
    return without_secrets(None, "info", {"event": "x", **fields})


@pytest.mark.parametrize(
    ("fields", "shown"),
    [
        ({"sip_password": "geheim"}, {"sip_password": "***"}),
        ({"headers": {"Authorization": "Bearer abc"}}, {"headers": {"Authorization": "***"}}),
        ({"problem": f"refused: {KEY}"}, {"problem": "refused: sk-***"}),
        ({"problem": "header 'Bearer abcdef0123456789'"}, {"problem": "header 'Bearer ***'"}),
        ({"url": "nats://worker:geheim@bus:4222"}, {"url": "nats://worker:***@bus:4222"}),
        ({"frame": bytes(320)}, {"frame": "<320 bytes>"}),
        ({"several": [b"12", {"api_key": "k"}]}, {"several": ["<2 bytes>", {"api_key": "***"}]}),
        ({"token": ""}, {"token": ""}),
        ({"server": "sip.example.net", "calls": 3}, {"server": "sip.example.net", "calls": 3}),
        ({"problem": "at most 50 % of the basic fee"}, {"problem": "at most 50 % of the basic fee"}),
    ],
)
def test_what_is_secret_is_not_shown_and_the_rest_is(fields, shown):
    assert line(**fields) == {"event": "x", **shown}


def test_audio_in_base64_is_not_shown():
    audio = base64.b64encode(bytes(range(256)) * 2).decode()
    assert line(problem=f"could not be read: {audio}") == {"event": "x", "problem": "could not be read: <base64>"}


def test_a_line_is_json_with_the_call_and_a_traceback_has_no_secret():
    script = (
        "from libs.runtime.log import bound, configure_logging, get_logger\n"
        "configure_logging('gateway', fmt='json')\n"
        "with bound(call='C1'):\n"
        "    try:\n"
        f"        raise ValueError('key {KEY}')\n"
        "    except ValueError:\n"
        "        get_logger().exception('broke', problem='x')\n"
    )
    written = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stderr
    (one,) = written.splitlines()
    told = json.loads(one)
    assert (told["service"], told["call"], told["level"], told["event"]) == ("gateway", "C1", "error", "broke")
    assert "ValueError: key sk-***" in told["exception"]
    assert KEY not in one
