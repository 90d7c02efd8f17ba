"""Wrong settings end a service with one sentence each, not with a traceback."""

from typing import Annotated

import pytest
from pydantic import Field, SecretStr

from libs.runtime.service import WRONG_SETTINGS, Service, run
from libs.runtime.settings import ServiceSettings


class Settings(ServiceSettings):
    """Of a service that never starts."""

    grace_s: Annotated[float, Field(ge=1)] = 30.0
    ports: tuple[int, int] = (1, 2)
    api_key: SecretStr | None = None
    must_be_there: str = "x"


async def never(service: Service, settings: Settings) -> None:
    raise AssertionError("it must not start")


@pytest.fixture
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path) -> pytest.MonkeyPatch:
    monkeypatch.chdir(tmp_path)  # no .env
    return monkeypatch


@pytest.mark.parametrize(
    ("variable", "value", "sentence"),
    [
        ("LOG_LEVEL", "loud", "LOG_LEVEL: 'loud' is not one of DEBUG, INFO, WARNING, ERROR"),
        ("HEALTH_PORT", "70000", "HEALTH_PORT: Input should be less than or equal to 65535"),
        ("GRACE_S", "soon", "GRACE_S: Input should be a valid number, unable to parse string as a number"),
        ("PORTS", "10-20", 'error parsing value for field "ports"'),
    ],
)
def test_each_wrong_setting_is_named_in_one_sentence(
    clean: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], variable: str, value: str, sentence: str
) -> None:
    clean.setenv(variable, value)
    assert run("demo", "dm", Settings, never) == WRONG_SETTINGS == 2
    told = capsys.readouterr().err
    assert sentence in told
    assert "Traceback" not in told


def test_all_wrong_settings_are_told_at_once(clean: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    clean.setenv("GRACE_S", "0.5")
    clean.setenv("LOG_LEVEL", "loud")
    assert run("demo", "dm", Settings, never) == 2
    assert capsys.readouterr().err.count("wrong setting") == 2


def test_a_log_level_may_be_written_small(clean: pytest.MonkeyPatch) -> None:
    clean.setenv("LOG_LEVEL", "debug")
    assert Settings().log_level == "DEBUG"
