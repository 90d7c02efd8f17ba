"""Trunks as operators write them: what is read, what is refused with which sentence, which request is whose."""

from pathlib import Path

import pytest

from services.sip_gateway import trunks
from services.sip_gateway.settings import Settings
from services.sip_gateway.trunks import DIRECT, TrunkConfig, TrunksError, TrunkTable, read_trunks

FILE = """
trunks:
  - name: provider
    server: sip.example.net
    username: 1234567t0
    password: ${PROVIDER_PASSWORD}
    caller: +493012345678
    codecs: [g722, PCMA]
    srtp: off
    outbound:
      allowed_prefixes: ["+49", +43]
      attempts_per_hour: 100
  - name: pbx
    sources: [192.168.10.7/24, 2001:db8::/32]
    challenge: yes
    challenge_username: haus
    challenge_password_file: pbx.secret
    organisation: haus
    country: AT
    transfer: bridge
"""


@pytest.fixture
def file(tmp_path):
    (tmp_path / "pbx.secret").write_text("geheim\n")
    path = tmp_path / "trunks.yaml"
    path.write_text(FILE)
    return path


def test_a_file_gives_its_trunks_and_secrets_come_from_elsewhere(file):
    provider, pbx = read_trunks(file, {"PROVIDER_PASSWORD": "s3cret"})
    assert (provider.login.username, provider.login.password) == ("1234567t0", "s3cret")
    assert provider.registers
    assert provider.caller == "+493012345678"
    assert provider.codecs == ("G722", "PCMA")
    assert provider.srtp == "off"
    assert provider.outbound.allowed_prefixes == ("+49", "+43")
    assert pbx.challenge_password.get_secret_value() == "geheim"
    assert not pbx.registers
    assert [str(network) for network in pbx.sources] == ["192.168.10.0/24", "2001:db8::/32"]
    assert "s3cret" not in repr(provider)


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("${PROVIDER_PASSWORD}", "${MISSING}", "trunk 'provider': password: MISSING is not set in the environment"),
        ("${PROVIDER_PASSWORD}", "s3cret", "trunk 'provider': password: not here in the clear"),
        ("srtp: off", "srtp: sure", "trunk 'provider': srtp: Input should be 'off', 'optional' or 'required'"),
        ("caller:", "calller:", "trunk 'provider': calller: there is no such field"),
        ("[g722, PCMA]", "[opus]", "trunk 'provider': codecs.0: Input should be 'G722', 'PCMA' or 'PCMU'"),
        ("192.168.10.7/24", "192.168.10.7/44", "trunk 'pbx': sources: "),
        ("country: AT", "country: Austria", "trunk 'pbx': country: "),
        ("challenge_username: haus", "", "trunk 'pbx': challenge needs challenge_username, challenge_password and so"),
        ("pbx.secret", "none.secret", "trunk 'pbx': challenge_password_file: "),
        ('["+49", +43]', "[49-]", "trunk 'provider': outbound.allowed_prefixes: '49-' is no beginning of a number"),
        ("name: pbx", "name: p b x", "trunk 'p b x': name: "),
        ("    sources: [192.168.10.7/24, 2001:db8::/32]\n    challenge: yes\n", "", "trunk 'pbx': server or sources"),
        ("trunks:", "trunk:", "a list under the name 'trunks' is expected"),
        ("trunks:", "trunks: [", "trunks.yaml:3 is not YAML: expected the node content"),
    ],
)
def test_a_mistake_is_named_with_trunk_and_field(file, old, new, sentence):
    file.write_text(FILE.replace(old, new, 1))
    with pytest.raises(TrunksError) as caught:
        read_trunks(file, {"PROVIDER_PASSWORD": "s3cret"})
    assert sentence in str(caught.value)


def test_a_file_that_cannot_be_read_is_named_once_and_nothing_of_it_is_quoted(tmp_path):
    missing, broken = tmp_path / "missing.yaml", tmp_path / "broken.yaml"
    broken.write_text("trunks:\n  - {password: s3cret\n")
    with pytest.raises(TrunksError) as none:
        read_trunks(missing, {})
    with pytest.raises(TrunksError) as cut:
        read_trunks(broken, {})
    assert str(none.value) == f"SIP_TRUNKS_FILE: {missing} cannot be read: No such file or directory"
    assert str(cut.value) == f"SIP_TRUNKS_FILE: {broken}:3 is not YAML: expected ',' or '}}', but got '<stream end>'"


def test_all_mistakes_are_told_at_once(file):
    file.write_text(FILE.replace("srtp: off", "srtp: x").replace("country: AT", "country: x"))
    with pytest.raises(TrunksError, match=r"(?s)'provider': srtp.*'pbx': country"):
        read_trunks(file, {"PROVIDER_PASSWORD": "s3cret"})


def trunk(name, **fields) -> TrunkConfig:
    return TrunkConfig.model_validate({"name": name} | fields)


ACCOUNT = {"username": "100", "password": "x"}
NOBODY = trunk(DIRECT)


def test_two_accounts_of_one_name_have_contacts_of_their_own():
    table = TrunkTable([trunk("a", server="a.example", **ACCOUNT), trunk("b", server="b.example", **ACCOUNT)], NOBODY)
    assert table.contact_users == {"a": "100-a", "b": "100-b"}
    assert table.of_request("192.0.2.1", "100-b").name == "b"
    assert not table.is_contact("100")


def test_a_request_belongs_to_who_proved_it_then_the_contact_then_the_source():
    table = TrunkTable(
        [
            trunk("provider", server="a.example", **ACCOUNT),
            trunk("wide", sources=["10.0.0.0/8"]),
            trunk("pbx", sources=["10.1.0.0/16"], challenge=True, challenge_username="haus", challenge_password="x"),
        ],
        NOBODY,
    )
    table.resolved("provider", ["192.0.2.7"])
    assert table.of_request("10.1.2.3", "100", "haus").name == "pbx"
    assert table.of_request("10.1.2.3", "100").name == "provider"
    assert table.of_request("192.0.2.7", "anything").name == "provider"
    assert table.of_request("10.1.2.3", "anything").name == "pbx"
    assert table.of_request("10.2.2.3", "anything").name == "wide"
    assert table.of_request("198.51.100.1", "anything") is NOBODY


@pytest.mark.parametrize(
    ("server", "host", "port"),
    [
        ("sip.example.net", "sip.example.net", None),
        ("sip.example.net:5080", "sip.example.net", 5080),
        ("[2001:db8::1]:5080", "2001:db8::1", 5080),
        ("2001:db8::1", "2001:db8::1", None),
    ],
)
def test_a_server_may_bring_its_port(server, host, port):
    found = trunk("a", server=server)
    assert (found.server, found.port) == (host, port)


@pytest.mark.parametrize(
    ("server", "sentence"),
    [("sip.example.net:x", "'x' in 'sip.example.net:x' is not a port"), ("sip:example.net", "is not a port"),
     ("a b", "is not a host name"), ("<x>", "is not a host name")],
)  # fmt: skip
def test_what_is_no_server_is_named(server, sentence):
    with pytest.raises(ValueError, match=sentence):
        trunk("a", server=server)


@pytest.mark.parametrize(
    ("trunks", "sentence"),
    [
        ([trunk("a", sources=["10.0.0.0/8"]), trunk("a", server="b")], "trunk 'a': name: another trunk has it"),
        (
            [trunk("a", sources=["10.0.0.0/8"]), trunk("b", sources=["10.0.0.0/8"])],
            "trunk 'b': sources: 10.0.0.0/8 belongs to trunk 'a'",
        ),
    ],
)
def test_what_two_trunks_cannot_share_is_refused(trunks, sentence):
    with pytest.raises(TrunksError, match=sentence):
        TrunkTable(trunks, NOBODY)


def test_the_trunk_of_the_environment_is_there_as_before(monkeypatch):
    given = Settings(_env_file=None, sip_server="sip.example.net", sip_username="1234567t0", sip_password="geheim")
    (only,) = given.trunks()
    assert (only.name, only.registers, only.domain, only.caller) == ("default", True, "sip.example.net", "1234567t0")
    assert list(Settings(_env_file=None).trunks()) == []


def test_trunks_of_the_file_stand_beside_the_one_of_the_environment(file, monkeypatch):
    monkeypatch.setenv("PROVIDER_PASSWORD", "s3cret")
    given = Settings(_env_file=None, sip_server="sip.example.org", sip_trunks_file=file)
    assert [t.name for t in given.trunks()] == ["default", "provider", "pbx"]


def test_the_example_is_valid():
    example = Path(trunks.__file__).with_name("trunks.example.yaml")
    found = read_trunks(example, {"PROVIDER_PASSWORD": "x", "BRANCH_PASSWORD": "y"})
    assert [trunk.name for trunk in TrunkTable(found, NOBODY)] == ["provider", "pbx", "branch"]
