"""Starts the Twilio gateway: `python -m services.twilio_gateway`."""

from __future__ import annotations

import asyncio
import sys

from libs.call_leg.admission_shell import Admission
from libs.call_leg.gateway import CallLegs
from libs.call_leg.instruments import ORIGINATIONS, MediaTotals, show_ends
from libs.call_leg.originate import Originations
from libs.runtime.config_copy import ConfigCopy
from libs.runtime.log import get_logger
from libs.runtime.service import Service, run
from services.twilio_gateway.gateway import TwilioGateway
from services.twilio_gateway.instruments import STREAM, WEB
from services.twilio_gateway.rest import TwilioApi
from services.twilio_gateway.settings import Settings
from services.twilio_gateway.web import WebServer

log = get_logger()

FLUSH_S = 2.0
LEAVE_S, LINGER_S = 2.0, 1.0  # for the last words and the questions that Twilio asks after them


def rest_api(settings: Settings) -> TwilioApi:
    """The REST API with the API key where there is one, else with the auth token."""
    username, secret = settings.twilio_api_key, settings.twilio_api_secret
    if username is None or secret is None:
        username, secret = settings.twilio_account_sid, settings.twilio_auth_token
    password = secret.get_secret_value() if secret is not None else ""
    return TwilioApi(settings.twilio_api_base_url, settings.twilio_account_sid, username, password)


def export(gateway: TwilioGateway, web: WebServer, legs: CallLegs, originations: Originations) -> None:
    """The gateway's numbers, for `/metrics`."""
    WEB.read_from(lambda: gateway.counters + web.counters + gateway.streams.counters)
    STREAM.read_from(lambda: gateway.streamed)
    ORIGINATIONS.read_from(lambda: originations.counters)
    MediaTotals(lambda: gateway.media, legs.media).export()
    show_ends("twilio")


async def main(service: Service, settings: Settings) -> None:
    """Wire the gateway, serve until told to stop, let the calls finish."""
    legs = CallLegs(service.id, service.bus, service.outbox, capacity=settings.max_calls)
    config = ConfigCopy(service.bus)
    api = rest_api(settings)
    admission = Admission(service.bus, legs, config)
    gateway = TwilioGateway(settings, service.bus, legs, admission, api)
    originations = Originations("twilio", legs, config, admission, gateway.fences, gateway.place)
    web = WebServer(settings, gateway)
    await legs.start()
    await admission.start()
    export(gateway, web, legs, originations)
    service.health.checks["workers"] = lambda: None if len(legs.roster) else "no AI worker is alive"
    service.health.checks["config"] = lambda: None if config.loaded.is_set() else "configuration not read yet"
    async with asyncio.TaskGroup() as tasks:
        background = [tasks.create_task(part.run()) for part in (legs, config, admission, gateway)]
        async with asyncio.timeout(10):
            await config.loaded.wait()
        await web.start()
        log.info("answering Twilio", address=f"{settings.twilio_listen_host}:{web.port}", public=settings.public_url)
        await originations.start(service.bus)
        service.is_up(lambda: not len(legs) and not gateway.last_words.speaking)
        await service.stopping.wait()
        log.info("draining", calls=len(legs), timeout_s=settings.drain_timeout_s)
        await originations.stop()
        until = asyncio.get_running_loop().time() + settings.drain_timeout_s
        await legs.drain(settings.drain_timeout_s)
        await gateway.last_words.drain(until)
        await gateway.leave(LEAVE_S, LINGER_S)
        await admission.flush(FLUSH_S)
        await web.stop()
        for task in background:
            task.cancel()
    gateway.ticker.close()
    await api.close()


if __name__ == "__main__":
    sys.exit(run("twilio_gateway", "gw", Settings, main))
