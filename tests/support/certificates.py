"""Certificates for tests: an authority of their own and one server certificate, made by the openssl command."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

NAMES = "DNS:localhost,DNS:sip.example,IP:127.0.0.1,IP:::1"


@dataclass(frozen=True)
class Certificates:
    """PEM files: the authority's certificate, and a server's certificate with its key."""

    ca: Path
    certificate: Path
    key: Path


def make_certificates(folder: Path, names: str = NAMES) -> Certificates:
    """A new authority and a certificate for `names` (subjectAltName) under it. Takes a tenth of a second."""
    ca, ca_key = folder / "ca.pem", folder / "ca.key"
    certificate, key = folder / "server.pem", folder / "server.key"
    _request("/CN=Test CA", ca, ca_key)
    _request("/CN=sip.example", certificate, key, "-CA", ca, "-CAkey", ca_key, "-addext", f"subjectAltName={names}",
             "-addext", "basicConstraints=critical,CA:FALSE")  # fmt: skip
    return Certificates(ca, certificate, key)


def _request(subject: str, certificate: Path, key: Path, *further: str | Path) -> None:
    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1")
    files = ("-out", certificate, "-keyout", key)
    command = ("openssl", "req", "-x509", *curve, "-nodes", "-days", "2", "-subj", subject, *files, *further)
    subprocess.run(command, check=True, capture_output=True)
