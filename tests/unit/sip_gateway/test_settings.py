"""Settings of the gateway: what is wrong is said, the defaults reach no further than the own network."""

from ipaddress import ip_address, ip_network

import pytest
from pydantic import ValidationError

from services.sip_gateway.settings import Settings


def settings(monkeypatch, **environment):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return Settings(_env_file=None)


@pytest.fixture(autouse=True)
def _clean(monkeypatch):
    for name in ("RTP_PORTS", "SIP_ALLOWED_SOURCES", "SIP_SERVER", "SIP_DOMAIN", "SIP_LISTEN_PORT", "SIP_PORT"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("address", "allowed"),
    [
        ("127.0.0.1", True), ("10.1.2.3", True), ("172.16.0.1", True), ("172.32.0.1", False), ("192.168.1.20", True),
        ("100.64.0.1", True), ("169.254.7.7", True), ("8.8.8.8", False), ("217.10.79.9", False), ("::1", True),
        ("fd00::1", True), ("fe80::1", True), ("2001:db8::1", False),
    ],
)  # fmt: skip
def test_only_loopback_and_private_networks_are_answered_by_default(monkeypatch, address, allowed):
    networks = settings(monkeypatch).sip_allowed_sources
    source = ip_address(address)
    assert any(source in network for network in networks if network.version == source.version) is allowed


def test_networks_are_separated_by_commas(monkeypatch):
    got = settings(monkeypatch, SIP_ALLOWED_SOURCES="217.10.64.0/20, 2001:db8::/32,10.0.0.7").sip_allowed_sources
    assert got == (ip_network("217.10.64.0/20"), ip_network("2001:db8::/32"), ip_network("10.0.0.7/32"))


def test_a_network_that_is_none_is_refused(monkeypatch):
    with pytest.raises(ValidationError, match="does not appear to be an IPv4 or IPv6 network"):
        settings(monkeypatch, SIP_ALLOWED_SOURCES="10.0.0.0/8,home")


def test_a_range_of_rtp_ports(monkeypatch):
    assert settings(monkeypatch, RTP_PORTS="10000-20000").rtp_ports == (10_000, 20_000)


@pytest.mark.parametrize("value", ["", "0"])
def test_without_a_range_the_system_picks(monkeypatch, value):
    assert settings(monkeypatch, RTP_PORTS=value).rtp_ports is None


@pytest.mark.parametrize(
    "value", ["10000", "10000-", "-5", "a-b", "20000-10000", "80-90", "10000-70000", "10000-10000"]
)
def test_a_range_that_is_none_is_refused_with_its_text(monkeypatch, value):
    with pytest.raises(ValidationError, match=f"'{value}' is not a (port )?range"):
        settings(monkeypatch, RTP_PORTS=value)


def test_the_registrar_has_two_names_and_its_port_is_not_ours(monkeypatch):
    got = settings(monkeypatch, SIP_DOMAIN="sipconnect.example", SIP_PORT="5080")
    assert got.sip_server == "sipconnect.example"
    assert got.sip_listen_port == 5060
