"""Checks of this machine for `callbus doctor`: ports, disk, the object store, the system's clock."""

from __future__ import annotations

import asyncio
import os
import shutil
from contextlib import suppress
from pathlib import Path

from cli.errors import CliError
from cli.findings import Finding, Site
from cli.ports import complaint, is_free
from cli.service_settings import read_settings
from cli.settings import CliSettings
from libs.object_store.settings import ObjectStoreSettings
from libs.object_store.store import ObjectStore, ObjectStoreError
from services.sip_gateway.settings import Settings as SipSettings

LITTLE_BYTES = 1 << 30  # about ten hours of stereo recordings at 8 kHz
FULL_BYTES = 100 << 20
OBJECTS_DEFAULT = "var/objects"
SPOOL = "recordings"  # below CALLBUS_VAR, as `callbus up` sets it
STORE_TIMEOUT_S = 20.0
CLOCK_TIMEOUT_S = 2.0
PORTS_OF_A_CALL = 2  # RTP and RTCP


async def check_ports(site: Site) -> list[Finding]:
    """The SIP port is the gateway's, or free for it; the RTP range is large enough and nobody else's."""
    made = []
    settings = site.settings
    if site.up is not None:
        made.append(Finding("ports", "ok", f"the SIP gateway listens at udp {site.up.sip}"))
    elif problem := complaint(settings.sip_listen_port, settings.sip_listen_host, "udp", ""):
        remedy = "end that program, or set another SIP_LISTEN_PORT"
        made.append(Finding("ports", "warn", problem.removesuffix(": "), remedy))
    else:
        made.append(Finding("ports", "ok", f"SIP port {settings.sip_listen_port}/udp is free for `callbus up`"))
    return [*made, *_rtp(site)]


def _rtp(site: Site) -> list[Finding]:
    try:
        sip = read_settings(SipSettings)
    except CliError as error:
        return [Finding("ports", "fail", f"the SIP gateway: {error}", "correct it in .env (docs/settings.md)")]
    if sip.rtp_ports is None:
        return [Finding("ports", "ok", "RTP uses any free port: a firewall needs RTP_PORTS")]
    first_port, last_port = sip.rtp_ports
    room = (last_port - first_port + 1) // PORTS_OF_A_CALL
    if room < sip.max_calls:
        text = f"RTP_PORTS {first_port}-{last_port} has room for {room} calls, MAX_CALLS is {sip.max_calls}"
        return [Finding("ports", "warn", text, "widen RTP_PORTS (two per call), or lower MAX_CALLS")]
    if site.up is None:
        taken = sum(
            not is_free(port, site.settings.sip_listen_host, "udp") for port in range(first_port, last_port + 1)
        )
        if taken:
            text = f"{taken} ports of RTP_PORTS {first_port}-{last_port} are taken by another program"
            return [
                Finding("ports", "warn", text, "choose a range of its own, outside of net.ipv4.ip_local_port_range")
            ]
    return [Finding("ports", "ok", f"RTP_PORTS {first_port}-{last_port} has room for {room} calls")]


async def check_disk(site: Site) -> list[Finding]:
    """There is room for databases, logs and recordings, and they can be written."""
    where = _existing(site.settings.callbus_var)
    free = shutil.disk_usage(where).free
    text = f"{free / (1 << 30):.1f} GB are free for {site.settings.callbus_var}"
    if not os.access(where, os.W_OK):
        return [Finding("disk", "fail", f"{where} cannot be written by this user", "chown it, or set CALLBUS_VAR")]
    spool = site.settings.callbus_var / SPOOL
    if spool.exists() and not (spool.is_dir() and os.access(spool, os.W_OK)):
        text = f"the recorder's spool {spool} cannot be written: no call is recorded"
        return [Finding("disk", "fail", text, "make it a folder of this user, or remove it: it is made again")]
    if free < FULL_BYTES:
        return [Finding("disk", "fail", text, "remove old logs and recordings, or set CALLBUS_VAR to another disk")]
    if free < LITTLE_BYTES:
        return [Finding("disk", "warn", text, "recordings may fill it: make room, or set OBJECT_STORE_URL elsewhere")]
    return [Finding("disk", "ok", text)]


def _existing(path: Path) -> Path:
    """The path, or its next parent that is there."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


async def check_object_store(site: Site) -> list[Finding]:
    """Recordings can be written where they are kept, and read again."""
    try:
        store = _object_store(site.settings)
        name = f"doctor/{os.getpid()}"
        async with asyncio.timeout(STORE_TIMEOUT_S):
            await store.put(name, b"callbus doctor")
            await store.get(name)
            await store.delete(name)
    except TimeoutError:
        text = f"the object store did not answer within {STORE_TIMEOUT_S:g} s"
        return [Finding("object_store", "fail", text, "check OBJECT_STORE_URL and AWS_ENDPOINT_URL")]
    except (ObjectStoreError, CliError) as error:
        remedy = "check OBJECT_STORE_URL, and AWS_* for s3://; recordings stay in the recorder's spool meanwhile"
        return [Finding("object_store", "fail", str(error), remedy)]
    return [Finding("object_store", "ok", f"recordings can be written to {store.url}")]


def _object_store(settings: CliSettings) -> ObjectStore:
    read = read_settings(ObjectStoreSettings)
    url = read.object_store_url
    if url == OBJECTS_DEFAULT:  # as `callbus up` sets it
        url = str(settings.callbus_var / "objects")
    return ObjectStore.open(url, read.s3_options)


async def check_ntp(_: Site) -> list[Finding]:
    """The system keeps its clock by the network, where it tells."""
    if shutil.which("timedatectl") is None:
        return []
    process = await asyncio.create_subprocess_exec(
        "timedatectl", "show", "--property=NTPSynchronized", "--value",
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    said = b""
    try:
        async with asyncio.timeout(CLOCK_TIMEOUT_S):
            said, _stderr = await process.communicate()
    except TimeoutError:
        with suppress(ProcessLookupError):
            process.kill()
    match said.strip():
        case b"yes":
            return [Finding("clock", "ok", "the system's clock is kept by the network (NTP)")]
        case b"no":
            remedy = "run `timedatectl set-ntp true`, or chrony: times of events and costs by day depend on it"
            return [Finding("clock", "warn", "nothing keeps the system's clock right (NTP)", remedy)]
    return []  # a container, where that is its host's business
