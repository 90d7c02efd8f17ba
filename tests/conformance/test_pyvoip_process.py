"""SIP_STACK=pyvoip as operators start it: the process with the package, and without it."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from importlib.util import find_spec

from libs.audio.tone import tone
from libs.contracts.events import CallEnded
from libs.contracts.termination import Reason
from libs.softphone.phone import Softphone
from tests.support.nats import nats_server
from tests.support.platform import ECHO_AGENT, ECHO_ROUTE, platform
from tests.support.registrar import Registrar


def account(address: tuple[str, int]) -> dict[str, str]:
    return {
        "SIP_STACK": "pyvoip", "SIP_SERVER": address[0], "SIP_PORT": str(address[1]), "SIP_USERNAME": "echo",
        "SIP_PASSWORD": "geheim", "RTP_PORTS": "24000-28000",
    }  # fmt: skip


if find_spec("rfcvoip"):

    async def test_the_whole_platform_answers_a_call_through_it():
        async with (
            await Registrar.open() as registrar,
            platform(documents=[ECHO_AGENT, ECHO_ROUTE], environment=account(registrar.address)) as running,
            running.events() as feed,
            await Softphone.open() as phone,
        ):
            assert registrar.registrations >= 1
            call = await phone.call(running.sip_uri("echo"))
            call.play(tone(1000, 1000, 8000))
            await call.wait_for_speech()
            await call.hang_up()
            assert (await feed.wait_for(CallEnded))[0].termination.reason is Reason.CALLER_HUNG_UP
            # no scrape has seen the call
            assert await running.metric("sip_gateway", "callbus_rtp_packets_total", event="received") > 0

else:

    async def test_without_its_package_the_gateway_says_what_to_install():
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as nobody:
            nobody.bind(("127.0.0.1", 0))
            async with nats_server() as server:
                environment = os.environ | account(nobody.getsockname()) | {"NATS_URL": server.url}
                process = await asyncio.create_subprocess_exec(
                    sys.executable, "-m", "services.sip_gateway", env=environment,
                    stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
                )  # fmt: skip
                output, _ = await asyncio.wait_for(process.communicate(), 30)
        assert process.returncode
        assert b"requirements/pyvoip.lock" in output
        assert b"Traceback" not in output
