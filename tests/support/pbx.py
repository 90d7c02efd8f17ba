"""A telephone network in small: a provider, callbus with two trunks at it, an agent of the test's own, telephones.

async with pbx(folder) as network:
    async with network.phone(network.alice) as phone: ...
"""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tenacity import AsyncRetrying, retry_if_result, stop_after_delay, wait_fixed

from libs.audio.compare import best_correlation
from libs.audio.resample import Resampler
from libs.contracts import subjects
from libs.contracts.agent import AgentConfig
from libs.contracts.config import RouteConfig
from libs.contracts.originate import Originate, OriginateReply
from tests.integration.peers import speech_8k
from tests.support.baresip import Account, Baresip, baresip
from tests.support.certificates import Certificates, make_certificates
from tests.support.kamailio import FAR_END, Provider
from tests.support.platform import Platform, platform
from tests.support.recording_agent import RecordingAgent
from tests.support.sipp import FarEnd, far_end

UDP_NUMBER, TLS_NUMBER = "+493012345678", "+493012345679"
ALICE, BOB, CAROL = "+493012345601", "+493012345602", "+493012345603"
FAR_NUMBER = f"{FAR_END}01"
PASSWORDS = {"1234567t0": "trunk-udp", "1234567t1": "trunk-tls", "alice": "a", "bob": "b", "carol": "c"}
NUMBERS = {UDP_NUMBER: "1234567t0", TLS_NUMBER: "1234567t1", ALICE: "alice", BOB: "bob", CAROL: "carol"}
EXPIRES_S = 4
"""The provider's registrations are brief, so that refreshes are seen."""
TRUNKS = """\
trunks:
  - name: default
    server: 127.0.0.1
    port: {udp_port}
    username: 1234567t0
    password: ${{UDP_PASSWORD}}
    caller: "{udp_number}"
    codecs: [PCMA, PCMU, G722]
    srtp: "off"
  - name: tls
    server: 127.0.0.1
    port: {tls_port}
    transport: tls
    username: 1234567t1
    password: ${{TLS_PASSWORD}}
    caller: "{tls_number}"
    codecs: [PCMA]
    srtp: required
"""
LEAD_IN = bytes(2 * 8000 * 3 // 10)
"""Silence before what a telephone says: the way of the media is open then."""
ALICE_SAYS = speech_8k("caller/540de70db06e.wav")
CAROL_SAYS = speech_8k("caller/ed95510c4340.wav")
AGENT_SAYS = speech_8k("4df9ae6f298d.wav")


@dataclass
class Pbx:
    """What runs."""

    provider: Provider
    callbus: Platform
    agent: RecordingAgent
    certificates: Certificates
    folder: Path

    @property
    def alice(self) -> Account:
        """A telephone on UDP."""
        return Account("alice", PASSWORDS["alice"], self.provider.port)

    @property
    def carol(self) -> Account:
        """Another one, which answers."""
        return Account("carol", PASSWORDS["carol"], self.provider.port, answers=True)

    @property
    def bob(self) -> Account:
        """A telephone on TLS that speaks nothing but SRTP."""
        return Account("bob", PASSWORDS["bob"], self.provider.tls_port, "tls", srtp="srtp-mand")

    @asynccontextmanager
    async def phone(self, account: Account, says: bytes = ALICE_SAYS) -> AsyncIterator[Baresip]:
        """A telephone that is switched on and registered; `says` is at 8 kHz."""
        spoken = LEAD_IN + says
        if account.rate_hz != 8000:
            spoken = Resampler(8000, account.rate_hz).process(spoken)
        with tempfile.TemporaryDirectory(dir=self.folder, prefix=f"{account.user}-") as folder:
            async with baresip(Path(folder), account, says=spoken, trusted=self.certificates.ca) as phone:
                yield phone

    @asynccontextmanager
    async def far_end(self, scenario: str) -> AsyncIterator[FarEnd]:
        """SIPp under FAR_NUMBER."""
        with tempfile.TemporaryDirectory(dir=self.folder, prefix=f"{scenario}-") as folder:
            async with far_end(scenario, self.provider.far_end_port, Path(folder)) as running:
                yield running

    async def originate(self, to: str, **wanted: Any) -> OriginateReply:
        """Have the agent call somebody."""
        request = Originate(to=to, agent="agent", **wanted)
        reply = await self.callbus.client.request(subjects.originate("default", "sip"), request.to_json(), timeout=5)
        return OriginateReply.model_validate_json(reply.data)

    async def trunk_is(self, state: str, trunk: str, timeout_s: float = 20) -> None:
        """Wait until the gateway says so."""
        waiting = AsyncRetrying(
            stop=stop_after_delay(timeout_s), wait=wait_fixed(0.1), retry=retry_if_result(lambda value: value != 1)
        )
        await waiting(self.callbus.metric, "sip_gateway", "callbus_trunk_state", trunk=trunk, state=state)


@asynccontextmanager
async def pbx(folder: Path) -> AsyncIterator[Pbx]:
    """Run all of it; yields when both trunks are registered."""
    async with AsyncExitStack() as stack:
        certificates = make_certificates(folder)
        provider = Provider(
            folder, passwords=PASSWORDS, numbers=NUMBERS, trunks=(UDP_NUMBER, TLS_NUMBER), certificates=certificates,
            expires_s=EXPIRES_S,
        )  # fmt: skip
        stack.callback(provider.stop)
        provider.start()
        trunks = folder / "trunks.yaml"
        trunks.write_text(
            TRUNKS.format(
                udp_port=provider.port, tls_port=provider.tls_port, udp_number=UDP_NUMBER, tls_number=TLS_NUMBER
            )
        )
        environment = {
            "SIP_TRUNKS_FILE": str(trunks), "SIP_TLS_CA": str(certificates.ca),
            "UDP_PASSWORD": PASSWORDS["1234567t0"], "TLS_PASSWORD": PASSWORDS["1234567t1"],
        }  # fmt: skip
        documents = [
            AgentConfig(name="agent", backend="scripted"),
            RouteConfig(name="all", match=(UDP_NUMBER, TLS_NUMBER), agent="agent"),
        ]
        agents: list[RecordingAgent] = []

        def make_agent(nats_url: str) -> RecordingAgent:
            agents.append(RecordingAgent(nats_url))
            return agents[0]

        callbus = await stack.enter_async_context(
            platform(documents=documents, workers=0, agent=make_agent, environment=environment)
        )
        (agent,) = agents
        network = Pbx(provider, callbus, agent, certificates, folder)
        await network.trunk_is("registered", "default")
        await network.trunk_is("registered", "tls")
        yield network


def likeness(said: bytes, heard: bytes, rate_hz: int = 8000) -> float:
    """How much of what was said (8 kHz) stands in what was heard (at `rate_hz`): 1 is an exact copy."""
    if rate_hz != 8000:
        said = Resampler(8000, rate_hz).process(said)
    correlation, _ = best_correlation(said, heard)
    return correlation
