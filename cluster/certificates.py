"""Certificates of one cluster: its own authority, a certificate for each role, a token.

Whoever reaches a Dask scheduler runs code as its user. So a cluster that more than one machine
reaches takes only who holds a certificate of its own authority, which lives as long as the
certificates do, and whose key is forgotten once it has signed them: nobody can add a fourth.
Dask compares no host names, and scheduler, workers and clients all accept each other's: a key that
was stolen is answered by making all of them again.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import secrets
import ssl
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from distributed.security import Security

from cluster.defaults import CERTIFICATE_DAYS
from cluster.errors import CertificateError

ROLES = ("scheduler", "worker", "client")
AUTHORITY = "ca.pem"
TOKEN = "token"
"""What a browser shows to see a dashboard that listens beyond its own machine."""

SKEW = timedelta(minutes=10)
"""By which clocks may differ."""


VARIABLE = "TESSERAE_CERTS"
"""The environment variable that names their folder."""


def named(word: str | None) -> Path:
    """The folder that *word* names; else the environment; else that of this user."""
    said = word or os.environ.get(VARIABLE)
    if said:
        return Path(said).absolute()
    config = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(config) / "tesserae" / "certs"


def folder(word: str | None) -> Path | None:
    """The same, or None if nobody named one and this user has none."""
    found = named(word)
    return found if word or os.environ.get(VARIABLE) or found.is_dir() else None


def make(*, hosts: Iterable[str] = (), days: float = CERTIFICATE_DAYS) -> dict[str, bytes]:
    """An authority, one certificate and key for each role, and a token, by file name.

    Args:
        hosts: Names and addresses under which a browser reaches the dashboard.
        days: How long they are good for.
    """
    if not 0 < days <= 3_650:
        raise ValueError(f"--days is {days:g}: expected more than 0, at most 3650.")
    now = datetime.now(UTC)
    until = now + timedelta(days=days)
    authority = ec.generate_private_key(ec.SECP256R1())
    name = _name(f"Tesserae cluster {secrets.token_hex(4)}")
    signed = (
        _builder(name, name, authority.public_key(), now, until)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(key_cert_sign=True), critical=True)
        .sign(authority, hashes.SHA256())
    )
    files = {AUTHORITY: signed.public_bytes(serialization.Encoding.PEM)}
    for role in ROLES:
        key = ec.generate_private_key(ec.SECP256R1())
        names = ["localhost", "127.0.0.1", *hosts] if role == "scheduler" else [role]
        certificate = (
            _builder(_name(role), name, key.public_key(), now, until)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(digital_signature=True), critical=True)
            .add_extension(x509.ExtendedKeyUsage(_PURPOSES), critical=False)
            .add_extension(x509.SubjectAlternativeName(_alternatives(names)), critical=False)
            .sign(authority, hashes.SHA256())
        )
        files[f"{role}.pem"] = certificate.public_bytes(serialization.Encoding.PEM)
        files[f"{role}.key"] = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    files[TOKEN] = secrets.token_urlsafe(32).encode() + b"\n"
    return files


def write(place: Path, files: Mapping[str, bytes], *, replace: bool = False) -> None:
    """Write what `make` made, for nobody else to read.

    Args:
        place: A folder, which is made.
        files: Their bytes, by name.
        replace: Whether to replace what is there: once all of the new is written.

    Raises:
        FileExistsError: There are some already.
    """
    for name in files:
        # Or half of them would be of one authority, half of another.
        if not replace and (place / name).exists():
            raise FileExistsError(f"{place / name} is there already.")
    if place.exists() and not place.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(place))
    place.mkdir(parents=True, mode=0o700, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".new-", dir=place) as new:
        for name, data in files.items():
            secret = name == TOKEN or name.endswith(".key")
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
            file = os.open(Path(new) / name, flags, 0o600 if secret else 0o644)
            with os.fdopen(file, "wb") as out:
                _check_private(file, place, name, secret=secret)
                out.write(data)
        for name in files:
            if replace:
                (Path(new) / name).replace(place / name)
            else:
                _add(Path(new) / name, place / name)


def _check_private(file: int, place: Path, name: str, *, secret: bool) -> None:
    if secret and os.fstat(file).st_mode & 0o077:
        raise CertificateError(
            f"others could read {place / name}: the file system of {place} keeps no permissions."
            " Name a folder on another with --certs."
        )


def _add(new: Path, final: Path) -> None:
    """Give a file its name, but never over one that has just come.

    Raises:
        FileExistsError: One has.
    """
    try:
        os.link(new, final)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links: who looks now may see half of the file
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        file = os.open(final, flags, new.stat().st_mode & 0o777)
        with os.fdopen(file, "wb") as out:
            out.write(new.read_bytes())


def remove(place: Path) -> None:
    """Delete what `write` wrote, and nothing else."""
    names = [AUTHORITY, TOKEN, *(f"{role}{end}" for role in ROLES for end in (".pem", ".key"))]
    for name in names:
        (place / name).unlink(missing_ok=True)


def security(place: Path, roles: Sequence[str] = ROLES) -> Security:
    """How *roles* show who they are, with the certificates in *place*.

    Raises:
        CertificateError: They are not there, can be read by others, or are too old.
    """
    fields = {"tls_ca_file": str(place / AUTHORITY)}
    for role in roles:
        fields[f"tls_{role}_cert"] = str(place / f"{role}.pem")
        fields[f"tls_{role}_key"] = str(place / f"{role}.key")
    for path in map(Path, fields.values()):
        if not path.is_file():
            raise CertificateError(
                f"there is no {path}. Make certificates with `tesserae cluster certs`, or copy"
                " them from the machine that has them, and name their folder with --certs."
            )
        if path.suffix == ".key" and path.stat().st_mode & 0o077:
            raise CertificateError(
                f"others than you can read {path}. If nobody has: chmod 600 {path}; else make"
                " new ones with `tesserae cluster certs --renew`."
            )
    authority = _load(place / AUTHORITY)
    for path in (Path(fields[f"tls_{role}_cert"]) for role in roles):
        _check_age(path)
        try:
            _load(path).verify_directly_issued_by(authority)
        except (ValueError, TypeError, InvalidSignature):
            raise CertificateError(
                f"{path} is not of the authority in {place / AUTHORITY}. Copy both from one place,"
                " or make all of them again with `tesserae cluster certs --renew`."
            ) from None
    return Security(require_encryption=True, tls_min_version=ssl.TLSVersion.TLSv1_3, **fields)


def check_token(place: Path) -> None:
    """Refuse a dashboard whose token is missing, empty or known to others.

    Raises:
        CertificateError: With what to do.
    """
    path = place / TOKEN
    try:
        known = path.stat().st_mode & 0o077
        text = path.read_text().strip()
    except OSError as e:
        raise CertificateError(
            f"the dashboard's token {path} cannot be read ({e.strerror}). Copy it from where the"
            " certificates were made, or make all of them again."
        ) from None
    if not text or known:
        raise CertificateError(
            f"the dashboard's token {path} is {'read by others' if text else 'empty'}. Make new"
            " certificates with `tesserae cluster certs --renew`."
        )


def in_memory(files: Mapping[str, bytes], roles: Sequence[str] = ROLES) -> Security:
    """The same of certificates that are in no folder."""
    fields = {"tls_ca_file": files[AUTHORITY].decode()}
    for role in roles:
        fields[f"tls_{role}_cert"] = files[f"{role}.pem"].decode()
        fields[f"tls_{role}_key"] = files[f"{role}.key"].decode()
    return Security(require_encryption=True, tls_min_version=ssl.TLSVersion.TLSv1_3, **fields)


def expiry(path: Path) -> datetime:
    """Until when the certificate in *path* is good.

    Raises:
        CertificateError: It is none.
    """
    return _load(path).not_valid_after_utc


def _load(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except ValueError:
        raise CertificateError(f"{path} is no certificate.") from None


_PURPOSES = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
"""Workers answer each other, and the scheduler asks them."""


def _check_age(path: Path) -> None:
    until = expiry(path)
    if until < datetime.now(UTC):
        raise CertificateError(
            f"{path} was good until {until:%Y-%m-%d %H:%M} UTC. Make new ones with `tesserae"
            " cluster certs --renew`, bring them to every machine, and start the cluster again."
        )


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    now: datetime,
    until: datetime,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - SKEW)
        .not_valid_after(until)
    )


def _usage(*, key_cert_sign: bool = False, digital_signature: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        key_cert_sign=key_cert_sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )


def _alternatives(names: Iterable[str]) -> list[x509.GeneralName]:
    found: list[x509.GeneralName] = []
    for name in dict.fromkeys(names):
        try:
            found.append(x509.IPAddress(ipaddress.ip_address(name)))
        except ValueError:
            found.append(x509.DNSName(name))
    return found
