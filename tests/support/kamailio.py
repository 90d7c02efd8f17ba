"""Kamailio as the provider: accounts with digest over UDP and TLS, Record-Route, and a range of numbers of our own."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from cli.ports import free_port
from tests.integration.peers import missing, require
from tests.support.certificates import Certificates

CONFIG = Path(__file__).parents[1] / "data" / "kamailio" / "provider.cfg"
MODULES = Path("/usr/lib/x86_64-linux-gnu/kamailio/modules/")
FAR_END = "+4930123457"
"""Numbers that begin so are taken by whoever listens on `Provider.far_end_port`."""


class Provider:
    """A kamailio process on ports of its own. It may be stopped and started again: it has forgotten everybody then.

    `passwords` by account, `numbers` name the account of a dialled number, and `trunks` are those of the numbers that
    the telephone network calls: its calls say no password. With `certificates` it listens for TLS.
    """

    def __init__(
        self,
        directory: Path,
        *,
        passwords: Mapping[str, str],
        numbers: Mapping[str, str],
        trunks: tuple[str, ...],
        certificates: Certificates | None = None,
        expires_s: int = 60,
        algorithm: Literal["MD5", "SHA-256"] = "MD5",
    ) -> None:
        self.port = free_port(transport="udp")
        self.tls_port = free_port()
        self.far_end_port = free_port(transport="udp")
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None
        accounts = [
            *(f'  $sht(password=>{user}) = "{password}";' for user, password in passwords.items()),
            *(f'  $sht(account=>{number}) = "{user}";' for number, user in numbers.items()),
            *(f'  $sht(trunk=>{number}) = "yes";' for number in trunks),
        ]
        self._values = {
            "UDP_PORT": str(self.port),
            "MODULES": f"{MODULES}/",
            "EXPIRES_S": str(expires_s),
            "ALGORITHM": algorithm,
            "ACCOUNTS": "\n".join(accounts),
            "FAR_END_NUMBERS": FAR_END.replace("+", r"\+"),
            "FAR_END_PORT": str(self.far_end_port),
            **_tls(self.tls_port, certificates),
        }

    @property
    def log(self) -> str:
        """What it wrote since it was started: a line for each REGISTER and INVITE with the right password."""
        return (self._directory / "kamailio.log").read_text("utf-8", "replace")

    def registrations(self, user: str) -> int:
        """How often this account has registered since the start."""
        return self.log.count(f"REGISTER {user} over ")

    def start(self) -> None:
        """Start it; what comes before it listens is for the others to repeat."""
        text = CONFIG.read_text()
        for name, value in self._values.items():
            text = text.replace(f"@{name}@", value)
        config = self._directory / "kamailio.cfg"
        config.write_text(text)
        argv = [require("kamailio"), "-f", str(config), "-DD", "-E", "-m", "32", "-M", "4", "-Y", str(self._directory)]
        with (self._directory / "kamailio.log").open("wb") as log:
            self._process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=log)

    def stop(self) -> None:
        """End it; nothing happens when it has ended."""
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait(10)
            self._process = None


def _tls(port: int, certificates: Certificates | None) -> dict[str, str]:
    if certificates is None:
        return {
            "ENABLE_TLS": "no", "DISABLE_TCP": "yes", "TLS_LISTEN": "", "TLS_MODULE": "", "TLS_PARAMETERS": "",
        }  # fmt: skip
    if not (MODULES / "tls.so").exists():
        missing("Kamailio's TLS", "kamailio-tls-modules")
    parameters = {"private_key": certificates.key, "certificate": certificates.certificate, "tls_method": "TLSv1.2+"}
    return {
        "ENABLE_TLS": "yes",
        "DISABLE_TCP": "no",
        "TLS_LISTEN": f"listen=tls:127.0.0.1:{port}",
        "TLS_MODULE": 'loadmodule "tls.so"',
        "TLS_PARAMETERS": "\n".join(f'modparam("tls", "{name}", "{value}")' for name, value in parameters.items()),
    }
