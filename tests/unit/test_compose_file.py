"""deploy/compose.yaml against what it starts: settings, users of the bus, images. No docker needed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from cli.settings_document import CLASSES, OF_COMPOSE, names_of
from libs.runtime.settings import ServiceSettings

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "deploy" / "compose.yaml").read_text("utf-8")
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load(TEXT)["services"]
OURS = sorted(name for name in SERVICES if (ROOT / "services" / name).is_dir())
OF_THE_IMAGE = {"HEALTH_HOST", "HEALTH_PORT"}


def test_every_service_of_the_repository_is_in_it() -> None:
    folders = {path.parent.name for path in (ROOT / "services").glob("*/__main__.py")}
    assert set(OURS) == folders


@pytest.mark.parametrize("name", OURS)
def test_a_container_gets_every_setting_of_its_service_and_no_other(name: str) -> None:
    settings = CLASSES[name]
    known = {variable for variables in names_of(settings) for variable in variables}
    if issubclass(settings, ServiceSettings):
        known |= {variable for variables in names_of(ServiceSettings) for variable in variables}
    given = set(SERVICES[name]["environment"])
    assert given - known == set()
    assert known - given - OF_THE_IMAGE == set()


def test_the_doctor_looks_where_the_recorder_writes() -> None:
    command, recorder = SERVICES["callbus"], SERVICES["recorder"]
    stores = {name for name in recorder["environment"] if name.startswith(("OBJECT_STORE_", "AWS_"))}
    assert {name: command["environment"].get(name, "unset") for name in stores} == {
        name: recorder["environment"][name] for name in stores
    }
    assert "objects:/var/lib/callbus/objects" in {*command["volumes"]} & {*recorder["volumes"]}


def test_what_is_filled_in_from_the_environment_is_documented() -> None:
    page = (ROOT / "docs" / "settings.md").read_text("utf-8")
    named = set(re.findall(r"(?<!\$)\$\{([A-Z_]+)", TEXT))
    assert {name for name in named if f"`{name}`" not in page} == set()
    assert {name for name, _, _ in OF_COMPOSE} - named == {"COMPOSE_PROFILES"}


def test_where_containers_have_another_default_the_example_says_which() -> None:
    example = (ROOT / ".env.example").read_text("utf-8")
    assert "# In containers: 25\n#DRAIN_TIMEOUT_S=600\n" in example
    assert "# In containers: postgresql://callbus:POSTGRES_PASSWORD@postgres/callbus\n#CATALOG_DATABASE_URL=" in example
    assert "# In containers: /var/lib/callbus/objects\n#OBJECT_STORE_URL=" in example
    assert "# In containers: 5060\n#SIP_LISTEN_PORT" not in example  # it is the same


def test_the_bus_has_a_password_for_every_user_and_nobody_comes_in_without() -> None:
    wanted = set(re.findall(r"\$(NATS_\w+_PASSWORD)", (ROOT / "deploy" / "nats" / "nats.conf").read_text("utf-8")))
    assert wanted <= set(SERVICES["nats"]["environment"])
    container = (ROOT / "deploy" / "nats" / "container.conf").read_text("utf-8")
    assert 'no_auth_user: ""' in container


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_nothing_can_do_more_than_it_has_to(name: str) -> None:
    service = SERVICES[name]
    assert service["cap_drop"] == ["ALL"]
    assert service["read_only"] is True
    assert "container_name" not in service  # it would forbid `--scale`
    for port in service.get("ports", []):
        assert port.startswith(("127.0.0.1:", "${SIP_PUBLISH_HOST:-127.0.0.1}:"))


def test_the_passwords_of_the_first_look_are_the_same_on_both_sides() -> None:
    for user, variable in re.findall(r"nats://(\w+):\$\{(NATS_\w+_PASSWORD)", TEXT):
        assert variable == f"NATS_{user.upper()}_PASSWORD"


def started(service: str, tmp_path: Path, *hosts: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """What a container begins with, where these hosts are known; Python tells what model it would use."""
    programs = {
        "getent": f'case " {" ".join(hosts)} " in *" $2 "*) ;; *) exit 2 ;; esac',
        "python": 'echo "$* at ${OPENAI_BASE_URL:-OpenAI} with ${OPENAI_API_KEY:-no key}"',
    }
    for name, script in programs.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    words = [word.replace("$$", "$") for word in SERVICES[service]["entrypoint"]]
    path = f"{tmp_path}:{os.defpath}"
    return subprocess.run(
        words, env={"PATH": path, **environment}, executable=shutil.which(words[0]), capture_output=True, text=True,
        check=False,
    )  # fmt: skip


@pytest.mark.parametrize(("environment", "code"), [({}, 1), ({"OPENAI_API_KEY": ""}, 1), ({"OPENAI_API_KEY": "k"}, 0)])
def test_the_profile_openai_says_at_once_when_it_has_no_key(
    tmp_path: Path, environment: dict[str, str], code: int
) -> None:
    ran = started("openai", tmp_path, **environment)
    assert (ran.returncode, "needs OPENAI_API_KEY in .env" in ran.stdout) == (code, code == 1)


REHEARSED = "-m run at http://rehearsal:8080/v1 with rehearsal"


@pytest.mark.parametrize(
    ("hosts", "environment", "model"),
    [
        (["rehearsal"], {}, f"no OPENAI_API_KEY: the rehearsal is the model\n{REHEARSED}"),
        ([], {}, f"neither OPENAI_API_KEY nor the profile rehearsal: agents have no model\n{REHEARSED}"),
        ([], {"OPENAI_API_KEY": "k"}, "-m run at OpenAI with k"),
        (["rehearsal"], {"OPENAI_API_KEY": "k"}, "-m run at OpenAI with k"),
        ([], {"OPENAI_BASE_URL": "http://own/v1"}, "-m run at http://own/v1 with no key"),
    ],
)
def test_a_worker_takes_the_model_that_there_is(
    tmp_path: Path, hosts: list[str], environment: dict[str, str], model: str
) -> None:
    assert started("ai_session", tmp_path, *hosts, **environment).stdout.strip() == model
