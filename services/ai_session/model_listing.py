"""The shell of `model_watch`: what agents use is noted as calls come, the endpoint is asked for shutdown dates at the
start and once a day, and operators are warned in the log.

Nobody waits for it, and whatever goes wrong (an endpoint without a listing, another vendor's) is no more than a line at
level info.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from datetime import UTC, datetime

import aiohttp

from libs.contracts.agent import AgentConfig
from libs.contracts.offer import Offer
from libs.runtime.log import get_logger
from services.ai_session.backends.factory import BackendPlan, PlanBackend
from services.ai_session.costs import Models
from services.ai_session.model_watch import Defaults, ModelWatch, models_of, shutdown_dates
from services.ai_session.settings import is_openai

log = get_logger()

ASK_EVERY_S = 24 * 3600.0
TIMEOUT_S = 5.0
MOST_BYTES = 4 << 20


class WatchedPlans:
    """A `PlanBackend` that tells operators what they should know of the models that its agents use."""

    def __init__(self, plan: PlanBackend, models: Models, defaults: Defaults) -> None:
        self._plan, self._models, self._defaults = plan, models, defaults
        self.watch = ModelWatch(models)
        self.watch.use(defaults.always)
        self._unpriced: set[tuple[str, str]] = set()

    def __call__(self, offer: Offer) -> BackendPlan:
        """See `PlanBackend`."""
        self._note(offer.agent, limited=offer.org_usd_per_day is not None)
        return self._plan(offer)

    async def run(self, base_url: str, api_key: str, tls: ssl.SSLContext | None) -> None:
        """Ask the endpoint and warn, until cancelled."""
        while True:
            await ask(self.watch, base_url, api_key, tls)
            self._warn()
            await asyncio.sleep(ASK_EVERY_S)

    def _note(self, agent: AgentConfig, *, limited: bool) -> None:
        used = models_of(agent, self._defaults)
        self.watch.use(used)
        self._warn()
        if not limited and agent.budget.per_call_usd is None:
            return
        for name in sorted(used):
            if (agent.name, name) not in self._unpriced and not self._models.get(name).is_priced:
                self._unpriced.add((agent.name, name))
                log.warning("there is a budget, but the price of a model is not known", agent=agent.name, model=name)

    def _warn(self) -> None:
        for ending in self.watch.warnings(datetime.now(UTC).date()):
            log.warning(
                "the model will be shut down" if ending.days >= 0 else "the model was shut down",
                model=ending.model,
                ends=ending.ends.isoformat(),
                days=ending.days,
                use=ending.replacement,
            )


async def ask(watch: ModelWatch, base_url: str, api_key: str, tls: ssl.SSLContext | None) -> None:
    """Take over what the endpoint's listing says; never raises."""
    if not api_key and is_openai(base_url):
        return  # it would only refuse
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    base = base_url.rstrip("/")
    if base.startswith("ws"):
        base = "http" + base[len("ws") :]
    try:
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.get(f"{base}/models", headers=headers, ssl=tls if tls is not None else True) as response,
        ):
            response.raise_for_status()
            body = bytearray()
            async for chunk in response.content.iter_any():
                body += chunk
                if len(body) > MOST_BYTES:
                    raise ValueError(f"the listing is longer than {MOST_BYTES} bytes")
        found = shutdown_dates(json.loads(body))
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError, RecursionError) as error:
        log.info("the endpoint did not list its models", problem=str(error) or type(error).__name__)
        return
    watch.told(found)
    log.debug("the endpoint listed its models", with_shutdown_date=len(found))
