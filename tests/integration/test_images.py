"""What an image of deploy/Dockerfile holds, and how its process begins and ends."""

from __future__ import annotations

import json

import pytest

from tests.support.compose import CommandFailed, build, docker
from tests.support.services import PYTHON_IMAGE, needs_docker

pytestmark = [pytest.mark.docker, pytest.mark.timeout(600)]

SERVICES = (
    "ai_session", "browser_gateway", "catalog_tools", "recorder", "rehearsal", "sip_gateway", "transcript_store",
    "twilio_gateway",
)  # fmt: skip
LOOK = """
import importlib, json, os, shutil
importlib.import_module(f"services.{os.environ['WANTED']}.__main__")
folders = sorted(e.name for e in os.scandir("/app/services") if e.is_dir() and e.name != "__pycache__")
tools = [tool for tool in ("gcc", "git", "curl") if shutil.which(tool)]
ballast = [f for f in ("numpy/tests", "phonenumbers/geodata", "twilio/rest") if os.path.exists("/app/site/" + f)]
print(json.dumps({"services": folders, "tools": tools, "ballast": ballast, "user": os.getuid(),
                  "writable": os.access("/app", os.W_OK)}))
"""


@pytest.mark.parametrize("service", SERVICES)
async def test_an_image_holds_its_service_with_all_that_it_imports_and_no_other(service: str) -> None:
    needs_docker(PYTHON_IMAGE, compose=True)
    image = await build(service)
    found = json.loads(
        await docker(
            "run", "--rm", "--network", "none", "--read-only", "--env", f"WANTED={service}", "--entrypoint", "python",
            image, "-c", LOOK,
        )
    )  # fmt: skip
    assert found == {"services": [service], "tools": [], "ballast": [], "user": 10001, "writable": False}


async def test_the_command_runs_in_its_image() -> None:
    needs_docker(PYTHON_IMAGE, compose=True)
    image = await build("cli")
    assert "apply" in await docker("run", "--rm", "--network", "none", "--read-only", image, "--help")


async def test_a_wrong_setting_is_a_sentence_and_an_exit_code() -> None:
    needs_docker(PYTHON_IMAGE, compose=True)
    image = await build("transcript_store")
    with pytest.raises(CommandFailed, match="wrong setting: TRANSCRIPT_BATCH"):
        await docker("run", "--rm", "--network", "none", "--env", "TRANSCRIPT_BATCH=none", image)
