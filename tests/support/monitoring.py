"""A real Prometheus and a real Alertmanager on loopback, with the files of deploy/, and what their queries answer.

Both are started with the files as they are, but for addresses and for times that a test cannot wait for.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import yaml
from aiohttp import web
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_delay, wait_fixed

from cli.checkout import ROOT
from cli.ports import free_port
from deploy.prometheus.beside_up import with_addresses
from tests.support.http import app_of, serving

DEPLOY = ROOT / "deploy"
SCRAPE = "1s"
VARIABLES = ("$gateway_at", "$worker_at", "$gateway", "$worker")  # longer ones first
# What Grafana puts in: four scrapes, and what is chosen at the top of a dashboard.
GRAFANA = {"$__rate_interval": "5s", "$__interval": "1s", "$__range": "5m", **dict.fromkeys(VARIABLES, ".*")}


def read(path: str) -> Any:
    """A YAML file of deploy/."""
    return yaml.safe_load((DEPLOY / path).read_text("utf-8"))


class Inbox:
    """Where Alertmanager's webhooks arrive: alerts by path."""

    def __init__(self) -> None:
        self.url = ""
        self._alerts: list[tuple[str, dict[str, Any]]] = []
        self._came = asyncio.Event()

    async def take(self, request: web.Request) -> web.Response:
        """A notification."""
        self._alerts += [(request.path, alert) for alert in (await request.json())["alerts"]]
        self._came.set()
        return web.Response()

    async def wait_for(self, name: str, timeout_s: float = 30.0) -> tuple[str, dict[str, Any]]:
        """The path and the content of the first alert of a name.

        Raises:
            TimeoutError: it did not come.
        """
        async with asyncio.timeout(timeout_s):
            while True:
                for path, alert in self._alerts:
                    if alert["labels"]["alertname"] == name:
                        return path, alert
                self._came.clear()
                await self._came.wait()


class Monitoring:
    """What Prometheus knows. `began_at` is Unix time, `ports` where the watched processes tell their metrics."""

    def __init__(self, url: str, inbox: Inbox) -> None:
        self.inbox = inbox
        self._url = f"{url}/api/v1"
        self.ports: dict[str, int] = {}
        self.began_at = time.time()

    async def get(self, page: str, **parameters: str) -> Any:
        """The data of an answer of the HTTP API.

        Raises:
            AssertionError: Prometheus refuses the question.
        """
        async with aiohttp.ClientSession() as client, client.post(f"{self._url}/{page}", data=parameters) as response:
            answer = await response.json()
        assert answer["status"] == "success", (parameters, answer)
        return answer["data"]

    async def series(self, expr: str) -> list[dict[str, Any]]:
        """What a panel would draw: all series since the beginning that have a number at some time."""
        expr = filled_in(expr)
        end = time.time()
        drawn = await self.get("query_range", query=expr, start=str(self.began_at), end=str(end), step="1")
        return [one for one in drawn["result"] if any(math.isfinite(float(value)) for _, value in one["values"])]

    async def value(self, expr: str) -> float:
        """The only value of a query now; NaN when there is none."""
        found = (await self.get("query", query=expr))["result"]
        assert len(found) <= 1, (expr, found)
        return float(found[0]["value"][1]) if found else math.nan

    async def label_values(self, query: str) -> list[str]:
        """What a variable offers: `label_values(SELECTOR, LABEL)`."""
        selector, label = filled_in(query).removeprefix("label_values(").removesuffix(")").rsplit(", ", 1)
        async with (
            aiohttp.ClientSession() as client,
            client.get(f"{self._url}/label/{label}/values", params={"match[]": selector}) as response,
        ):
            found: list[str] = (await response.json())["data"]
        return found


def filled_in(query: str) -> str:
    """A query of a dashboard as Grafana sends it."""
    for name, value in GRAFANA.items():
        query = query.replace(name, value)
    return query


def prometheus_config(targets: Mapping[str, list[str]], alertmanager: str) -> dict[str, Any]:
    """deploy/prometheus/prometheus.yml with these addresses by service, and less patience."""
    config = with_addresses(targets, [alertmanager])
    config["global"] = {"scrape_interval": SCRAPE, "scrape_timeout": SCRAPE, "evaluation_interval": SCRAPE}
    return config


def alertmanager_config(inbox: str) -> dict[str, Any]:
    """deploy/alertmanager/alertmanager.yml with its receivers' names as paths of `inbox`, without mail and patience."""
    config: dict[str, Any] = read("alertmanager/alertmanager.yml")
    for route in (config["route"], *config["route"]["routes"]):
        route.update({"group_wait": "0s", "group_interval": "1s"})
    config["receivers"] = [
        {"name": one["name"], "webhook_configs": [{"url": f"{inbox}/{one['name']}"}]} for one in config["receivers"]
    ]
    return config


@asynccontextmanager
async def monitoring(targets: Mapping[str, list[str]], folder: Path) -> AsyncIterator[Monitoring]:
    """Both programs, scraping `targets` (addresses by service) and telling alerts to an inbox."""
    inbox = Inbox()
    async with serving(app_of(web.post("/{receiver}", inbox.take))) as inbox_url:
        urls = {name: f"127.0.0.1:{free_port()}" for name in ("prometheus", "alertmanager")}
        files = {
            "prometheus": prometheus_config(targets, urls["alertmanager"]),
            "alertmanager": alertmanager_config(inbox_url),
        }
        for name, config in files.items():
            (folder / f"{name}.yml").write_text(yaml.safe_dump(config), "utf-8")
        options = {
            "prometheus": [f"--storage.tsdb.path={folder / 'tsdb'}", f"--rules.alert.resend-delay={SCRAPE}"],
            "alertmanager": [f"--storage.path={folder / 'alertmanager'}", "--cluster.listen-address="],
        }
        programs = {"prometheus": "prometheus", "alertmanager": "prometheus-alertmanager"}
        processes = []
        try:
            for name, program in programs.items():
                with (folder / f"{name}.log").open("w") as log:
                    processes.append(
                        await asyncio.create_subprocess_exec(
                            program,
                            f"--config.file={folder / f'{name}.yml'}",
                            f"--web.listen-address={urls[name]}",
                            *options[name],
                            stdout=log,
                            stderr=log,
                        )
                    )
            for url in urls.values():
                await _ready(f"http://{url}/-/ready")
            yield Monitoring(f"http://{urls['prometheus']}", inbox)
        except BaseException:
            for name in programs:
                lines = (folder / f"{name}.log").read_text("utf-8", "replace").splitlines()
                print(f"{name}:", *(line for line in lines if "level=info" not in line), sep="\n")
            raise
        finally:
            for process in processes:
                process.terminate()
            for process in processes:
                await process.wait()


async def _ready(url: str) -> None:
    waiting = AsyncRetrying(
        stop=stop_after_delay(20), wait=wait_fixed(0.1), retry=retry_if_exception_type((OSError, AssertionError))
    )
    async for attempt in waiting:
        with attempt:
            async with aiohttp.ClientSession() as client, client.get(url) as response:
                assert response.status == 200
