"""Prometheus beside `callbus up`: the configuration of compose with the addresses of this machine."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cli.state import ProcessIdentity, UpState
from deploy.prometheus.beside_up import by_service, main, with_addresses


def test_processes_of_one_service_are_targets_of_one_job() -> None:
    ports = {"nats-server": 1, "sip_gateway": 2, "ai_session-1": 3, "ai_session-2": 4}
    assert by_service(ports) == {"sip_gateway": ["127.0.0.1:2"], "ai_session": ["127.0.0.1:3", "127.0.0.1:4"]}


def test_addresses_take_the_place_of_names_and_the_rules_stay() -> None:
    config = with_addresses({"recorder": ["127.0.0.1:5"]})
    [services] = config["scrape_configs"]
    assert services["static_configs"] == [{"targets": ["127.0.0.1:5"], "labels": {"__meta_dns_name": "recorder"}}]
    assert services["relabel_configs"] == [{"source_labels": ["__meta_dns_name"], "target_label": "job"}]
    assert [Path(file).exists() for file in config["rule_files"]] == [True, True]


def test_a_service_that_compose_would_not_find_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"prometheus\.yml does not look for echo_gateway"):
        with_addresses({"echo_gateway": ["127.0.0.1:5"]})


def test_it_says_what_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CALLBUS_VAR", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SystemExit, match="`callbus up` is not running here"):
        main([])
    state = UpState(supervisor=ProcessIdentity.of(os.getpid()), nats_url="", sip="", health_ports={"recorder": 5})
    state.write(tmp_path / "run" / "up.json")
    with pytest.raises(SystemExit, match="Prometheus is not installed"):
        main([])
