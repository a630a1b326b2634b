"""Certificates of one cluster: its own authority, one certificate per role, and a token.

A client of a Dask scheduler can run code as the scheduler's user. So a cluster that other machines
can reach accepts only peers with a certificate of its own authority. The key of the authority is
discarded after it has signed the three certificates, so no further one can be added. Dask does not
compare host names, and each role accepts the certificates of all roles: if a key was stolen, create
all of them anew.
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

from cluster.defaults import CERTIFICATE_DAYS, xdg_folder
from cluster.errors import CertificateError, ClusterError

ROLES = ("scheduler", "worker", "client")
AUTHORITY = "ca.pem"
TOKEN = "token"
"""The name of the file with the token that a dashboard requires when other machines reach it."""

CLOCK_SKEW = timedelta(minutes=10)
"""The tolerated difference between the clocks of machines."""


FOLDER_VARIABLE = "TESSERAE_CERTS"
"""The environment variable with the path of the folder of certificates."""


def resolve_folder(folder_name: str | None) -> Path:
    """Return the folder of certificates to use, which need not exist.

    Args:
        folder_name: The folder that the user passed, in which `~` is not expanded; None or '' for
            that in the environment variable `TESSERAE_CERTS`, or else the default of this user,
            `$XDG_CONFIG_HOME/tesserae/certs`, or `~/.config/tesserae/certs` without
            XDG_CONFIG_HOME.

    Returns:
        An absolute path. A relative XDG_CONFIG_HOME is ignored, as the XDG specification demands.
    """
    chosen = folder_name or os.environ.get(FOLDER_VARIABLE)
    if chosen:
        return Path(chosen).absolute()
    return xdg_folder("XDG_CONFIG_HOME", ".config") / "tesserae" / "certs"


def existing_folder(folder_name: str | None) -> Path | None:
    """Return the folder of certificates; None if it is the default one and does not exist.

    Args:
        folder_name: The folder that the user passed; None or '' for that in the environment
            variable `TESSERAE_CERTS`, or else the default of this user, such as
            `~/.config/tesserae/certs`. A folder that was chosen in either way is returned even if
            it does not exist.

    Returns:
        An absolute path, or None.
    """
    path = resolve_folder(folder_name)
    return path if folder_name or os.environ.get(FOLDER_VARIABLE) or path.is_dir() else None


def create_certificates(
    *, hosts: Iterable[str] = (), days: float = CERTIFICATE_DAYS
) -> dict[str, bytes]:
    """Create an authority, a certificate and key for each role, and a token; nothing is written.

    Args:
        hosts: Names and addresses by which a browser reaches the dashboard, beside `localhost` and
            `127.0.0.1`, a sequence also for a single one (default: none).
        days: Validity in days, more than 0 and up to 3,650 (default: 30).

    Returns:
        The contents of the files, by file name: `ca.pem`, `token`, and for each of the roles
        `scheduler`, `worker` and `client` the certificate (such as `worker.pem`) and its key
        (`worker.key`).

    Raises:
        ClusterError: A name in *hosts* is not ASCII.
        ValueError: *days* is out of range.
    """
    if not 0 < days <= 3_650:
        raise ValueError(f"--days is {days:g}: expected more than 0, at most 3650.")
    now = datetime.now(UTC)
    until = now + timedelta(days=days)
    authority = ec.generate_private_key(ec.SECP256R1())
    name = _common_name(f"Tesserae cluster {secrets.token_hex(4)}")
    signed = (
        _certificate_builder(name, name, authority.public_key(), now, until)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(key_cert_sign=True), critical=True)
        .sign(authority, hashes.SHA256())
    )
    files = {AUTHORITY: signed.public_bytes(serialization.Encoding.PEM)}
    for role in ROLES:
        key = ec.generate_private_key(ec.SECP256R1())
        names = ["localhost", "127.0.0.1", *hosts] if role == "scheduler" else [role]
        certificate = (
            _certificate_builder(_common_name(role), name, key.public_key(), now, until)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(digital_signature=True), critical=True)
            .add_extension(x509.ExtendedKeyUsage(_PURPOSES), critical=False)
            .add_extension(x509.SubjectAlternativeName(_alternative_names(names)), critical=False)
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


def files_for_workers(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return only the files that workers need: authority, certificate and key of a worker.

    Args:
        files: Contents of the files by name, from `create_certificates`.

    Returns:
        A new dictionary of `ca.pem`, `worker.pem` and `worker.key`.
    """
    return {name: files[name] for name in (AUTHORITY, "worker.pem", "worker.key")}


def write_certificates(folder: Path, files: Mapping[str, bytes], *, replace: bool = False) -> None:
    """Write certificates to a folder, with keys and token readable only by this user.

    Args:
        folder: The folder, which is created if it does not exist.
        files: Contents of the files by name, from `create_certificates`.
        replace: True to replace existing files, after all new ones are written (default: False).

    Raises:
        FileExistsError: A file exists, and *replace* is False; nothing has been written then.
        NotADirectoryError: *folder* is a file.
        OSError: The folder cannot be created or written to.
        CertificateError: The file system does not support permissions.
    """
    # Checked before anything is written: files of two authorities must not be mixed.
    for name in files:
        if not replace and (folder / name).exists():
            raise FileExistsError(f"{folder / name} exists already.")
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder))
    folder.mkdir(parents=True, mode=0o700, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".new-", dir=folder) as temporary:
        for name, data in files.items():
            is_secret = name == TOKEN or name.endswith(".key")
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
            file = os.open(Path(temporary) / name, flags, 0o600 if is_secret else 0o644)
            with os.fdopen(file, "wb") as stream:
                _check_secret_is_private(file, folder, name, secret=is_secret)
                stream.write(data)
        for name in files:
            if replace:
                (Path(temporary) / name).replace(folder / name)
            else:
                _link_unless_exists(Path(temporary) / name, folder / name)


def _check_secret_is_private(file: int, folder: Path, name: str, *, secret: bool) -> None:
    if secret and os.fstat(file).st_mode & 0o077:
        raise CertificateError(
            f"other users could read {folder / name}: the file system of {folder} supports no"
            " permissions. Pass a folder on another file system with --certs."
        )


def _link_unless_exists(new: Path, final: Path) -> None:
    """Move a file to its final name unless a file of that name exists.

    Raises:
        FileExistsError: One exists.
    """
    try:
        os.link(new, final)
    except FileExistsError:
        raise
    except OSError:  # no hard links here: copy, although a reader may then see half of the file
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        file = os.open(final, flags, new.stat().st_mode & 0o777)
        with os.fdopen(file, "wb") as out:
            out.write(new.read_bytes())


def remove_certificates(folder: Path) -> None:
    """Delete the certificates, the keys and the token of a folder, and no other files.

    These are the files that `write_certificates` writes, known by their names: `ca.pem`, `token`,
    and the `.pem` and `.key` files of `scheduler`, `worker` and `client`.

    Args:
        folder: The folder, which is kept. Files that are missing are no error.

    Raises:
        OSError: A file cannot be deleted.
    """
    names = [AUTHORITY, TOKEN, *(f"{role}{end}" for role in ROLES for end in (".pem", ".key"))]
    for name in names:
        (folder / name).unlink(missing_ok=True)


def tls_security(folder: Path, roles: Sequence[str] = ROLES) -> Security:
    """Return Dask's security settings for TLS, with the certificates in a folder.

    Args:
        folder: The folder of certificates, as `write_certificates` fills it.
        roles: The roles of this process: `scheduler`, `worker`, `client` (default: all of them).

    Returns:
        The settings, which require TLS 1.3 and name the files of *roles* and `ca.pem`.

    Raises:
        CertificateError: A certificate or key of *roles* or `ca.pem` is missing, a file is not a
            certificate, a key is readable by others, or a certificate of *roles* is expired or not
            signed by `ca.pem`. The contents of keys are not checked.
    """
    fields = {"tls_ca_file": str(folder / AUTHORITY)}
    for role in roles:
        fields[f"tls_{role}_cert"] = str(folder / f"{role}.pem")
        fields[f"tls_{role}_key"] = str(folder / f"{role}.key")
    for path in map(Path, fields.values()):
        if not path.is_file():
            raise CertificateError(
                f"{path} does not exist. Create certificates with `tesserae cluster certs`, or"
                " copy them from the machine that has them, and pass their folder with --certs."
            )
        if path.suffix == ".key" and path.stat().st_mode & 0o077:
            raise CertificateError(
                f"other users can read {path}. If nobody has read it, run `chmod 600 {path}`;"
                " otherwise create new ones with `tesserae cluster certs --renew`."
            )
    authority = _load_certificate(folder / AUTHORITY)
    for path in (Path(fields[f"tls_{role}_cert"]) for role in roles):
        _check_not_expired(path)
        try:
            _load_certificate(path).verify_directly_issued_by(authority)
        except (ValueError, TypeError, InvalidSignature):
            raise CertificateError(
                f"{path} was not signed by {folder / AUTHORITY}. Copy both from the same machine,"
                " or create all of them again with `tesserae cluster certs --renew`."
            ) from None
    return Security(require_encryption=True, tls_min_version=ssl.TLSVersion.TLSv1_3, **fields)


def check_token(folder: Path) -> None:
    """Check that the token of the dashboard exists, and that only this user can read it.

    Args:
        folder: The folder of certificates, whose file `token` is checked.

    Raises:
        CertificateError: The token is missing, empty, no text, or readable by others.
    """
    path = folder / TOKEN
    try:
        readable_by_others = path.stat().st_mode & 0o077
        text = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as e:
        reason = e.strerror if isinstance(e, OSError) else "it is no text"
        raise CertificateError(
            f"the dashboard's token {path} cannot be read ({reason}). Copy it from the machine"
            " where the certificates were created, or create all of them again with `tesserae"
            " cluster certs --renew`."
        ) from None
    if not text or readable_by_others:
        raise CertificateError(
            f"the dashboard's token {path} is {'readable by other users' if text else 'empty'}."
            " Create new certificates with `tesserae cluster certs --renew`."
        )


def tls_security_in_memory(files: Mapping[str, bytes], roles: Sequence[str] = ROLES) -> Security:
    """Return Dask's security settings for TLS, with certificates that are in no file.

    Nothing is checked.

    Args:
        files: Contents of the files by name, from `create_certificates`: at least `ca.pem`, and the
            certificate and key of each of *roles*.
        roles: The roles of this process: `scheduler`, `worker`, `client` (default: all of them).

    Returns:
        The settings, which require TLS 1.3.

    Raises:
        KeyError: *files* lacks one of them.
    """
    fields = {"tls_ca_file": files[AUTHORITY].decode()}
    for role in roles:
        fields[f"tls_{role}_cert"] = files[f"{role}.pem"].decode()
        fields[f"tls_{role}_key"] = files[f"{role}.key"].decode()
    return Security(require_encryption=True, tls_min_version=ssl.TLSVersion.TLSv1_3, **fields)


def certificate_expiry(path: Path) -> datetime:
    """Return the time when a certificate expires, a datetime in UTC.

    Args:
        path: The PEM file of the certificate, such as `ca.pem`.

    Raises:
        CertificateError: The file is not a certificate.
        OSError: The file cannot be read.
    """
    return _load_certificate(path).not_valid_after_utc


def _load_certificate(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except ValueError:
        raise CertificateError(f"{path} is not a certificate.") from None


_PURPOSES = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
"""The uses of each certificate: every role both accepts and opens connections."""


def _check_not_expired(path: Path) -> None:
    until = certificate_expiry(path)
    if until < datetime.now(UTC):
        raise CertificateError(
            f"{path} expired at {until:%Y-%m-%d %H:%M} UTC. Create new certificates with `tesserae"
            " cluster certs --renew`, copy them to every machine, and restart the cluster."
        )


def _common_name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _certificate_builder(
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
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(until)
    )


def _key_usage(*, key_cert_sign: bool = False, digital_signature: bool = False) -> x509.KeyUsage:
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


def _alternative_names(names: Iterable[str]) -> list[x509.GeneralName]:
    alternatives: list[x509.GeneralName] = []
    for name in dict.fromkeys(names):
        try:
            alternatives.append(x509.IPAddress(ipaddress.ip_address(name)))
        except ValueError:
            if not name.isascii():
                raise ClusterError(
                    f"--hosts is {name!r}: expected a host name in ASCII. Pass its IDNA form, which"
                    " begins with xn--."
                ) from None
            alternatives.append(x509.DNSName(name))
    return alternatives
