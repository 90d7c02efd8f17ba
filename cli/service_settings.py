"""Settings of services as one that is started here would read them, for `callbus doctor`."""

from __future__ import annotations

from typing import TypeVar

from pydantic import ValidationError
from pydantic_settings import BaseSettings, SettingsError

from cli.checkout import ROOT
from cli.errors import CliError
from libs.runtime.service import wrong_settings

S = TypeVar("S", bound=BaseSettings)


def read_settings(cls: type[S]) -> S:
    """What the environment and `.env` say.

    Raises:
        CliError: a setting is wrong; each one is named, in the words of the service itself.
    """
    try:
        return cls(_env_file=ROOT / ".env")
    except (ValidationError, SettingsError, UnicodeDecodeError) as error:
        raise CliError(f"wrong setting: {'; '.join(wrong_settings(error))}") from None
