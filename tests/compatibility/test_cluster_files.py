"""Certificates and records of background programs, named as the first version named them.

Certificates expire, so they are issued here, in the files that `tesserae cluster certs` has always
written, without the code that writes them today.
"""

from __future__ import annotations

import datetime
import json
import os
import ssl
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from distributed.security import Security

from cluster import certificates
from cluster.processes import daemon

FILES = (
    "ca.pem", "client.key", "client.pem", "scheduler.key", "scheduler.pem", "token", "worker.key",
    "worker.pem",
)  # fmt: skip


def issue(folder: Path) -> None:
    """Write an authority, a certificate and key for each role, and a token into *folder*."""

    def certificate(name: str, key: ec.EllipticCurvePublicKey) -> x509.Certificate:
        now, day = datetime.datetime.now(datetime.UTC), datetime.timedelta(days=1)
        names = [x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, n)]) for n in (name, "cluster")]
        is_authority = x509.BasicConstraints(ca=name == "cluster", path_length=None)
        return (
            x509.CertificateBuilder(names[1], names[0], key, x509.random_serial_number())
            .not_valid_before(now - day)
            .not_valid_after(now + day)
            .add_extension(is_authority, critical=True)
            .sign(authority, hashes.SHA256())
        )

    authority = ec.generate_private_key(ec.SECP256R1())
    pem = serialization.Encoding.PEM
    folder.mkdir(parents=True)
    public = certificate("cluster", authority.public_key()).public_bytes(pem)
    (folder / "ca.pem").write_bytes(public)
    for role in ("scheduler", "worker", "client"):
        key = ec.generate_private_key(ec.SECP256R1())
        (folder / f"{role}.pem").write_bytes(certificate(role, key.public_key()).public_bytes(pem))
        form = (serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        (folder / f"{role}.key").write_bytes(key.private_bytes(pem, *form))
        (folder / f"{role}.key").chmod(0o600)
    (folder / "token").write_text("secret\n")
    (folder / "token").chmod(0o600)


@pytest.fixture
def issued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return this user's folder of certificates, as an earlier version left it."""
    monkeypatch.delenv("TESSERAE_CERTS", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    folder = tmp_path / "config" / "tesserae" / "certs"
    issue(folder)
    return folder


def test_certificates_are_found_and_connect_each_role(issued: Path) -> None:
    """Client and worker complete a TLS handshake with the scheduler."""
    assert certificates.existing_folder(None) == issued
    security = certificates.tls_security(issued)
    certificates.check_token(issued)
    for role in ("client", "worker"):
        assert handshake(security, role) == "TLSv1.3"


def handshake(security: Security, role: str) -> str | None:
    """Connect *role* to a scheduler in memory; return the version of TLS."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    listener = security.get_listen_args("scheduler")["ssl_context"]
    connector = security.get_connection_args(role)["ssl_context"]
    server = listener.wrap_bio(to_server, to_client, server_side=True)
    client = connector.wrap_bio(to_client, to_server)
    for _ in range(4):  # in TLS 1.3 each end needs the other's messages at most twice
        for end in (client, server):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
    return str(server.version())


def test_certificates_are_removed_by_name(issued: Path) -> None:
    """The present code writes and removes exactly the files that earlier versions wrote."""
    assert sorted(path.name for path in issued.iterdir()) == sorted(FILES)
    assert sorted(certificates.create_certificates()) == sorted(FILES)
    certificates.remove_certificates(issued)
    assert not list(issued.iterdir())


EDITIONS = ((), ("machine", "boot", "space"), ("machine", "id", "boot", "space"))
"""The keys under `where` in the records of three versions; the first wrote the mark alone."""


@pytest.mark.parametrize("keys", EDITIONS, ids=len)
def test_a_program_of_an_earlier_version_is_found_and_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keys: tuple[str, ...]
) -> None:
    """The folder of records and the variable with the mark have the names of every version."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    folder = tmp_path / "state" / "tesserae" / "cluster"
    folder.mkdir(parents=True)
    where = {key: value for key, value in daemon._current_host().items() if key in keys}
    record = {"mark": "0123456789abcdef", **({"where": where} if keys else {})}
    (folder / "scheduler.json").write_text(json.dumps(record))
    words = [sys.executable, "-c", "import time; time.sleep(60)"]
    with subprocess.Popen(
        words, env={**os.environ, "TESSERAE_BACKGROUND": record["mark"]}
    ) as child:
        try:
            running = daemon.process(daemon.default_folder(), "scheduler")
            assert running is not None
            assert running.pid == child.pid
            assert daemon.stop(daemon.default_folder(), "scheduler")
        finally:
            child.kill()
    assert not list(folder.glob("*.json"))
