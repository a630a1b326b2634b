"""Certificates as files: exclusive and private on any file system."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cluster import certificates
from cluster.errors import CertificateError, ClusterError
from tests import lacking


@pytest.mark.parametrize("calls", [(), lacking.EXFAT])
def test_certificates_are_written_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calls: tuple[str, ...]
) -> None:
    """Files are complete, private and never overwritten, with or without hard links."""
    lacking.remove(calls, monkeypatch.setattr)
    files = certificates.create_certificates()
    certificates.write_certificates(tmp_path / "certs", files)
    assert {path.name: path.read_bytes() for path in (tmp_path / "certs").iterdir()} == files
    secret = {
        path.name for path in (tmp_path / "certs").iterdir() if not path.stat().st_mode & 0o077
    }
    assert secret == {"scheduler.key", "worker.key", "client.key", "token"}
    certificates.tls_security(tmp_path / "certs")
    with pytest.raises(FileExistsError):
        certificates.write_certificates(tmp_path / "certs", certificates.create_certificates())


@pytest.mark.parametrize("calls", [(), lacking.EXFAT])
def test_a_file_that_appears_meanwhile_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calls: tuple[str, ...]
) -> None:
    """Another process may create certificates at the same time."""
    lacking.remove(calls, monkeypatch.setattr)
    add = certificates._link_unless_exists

    def late(new: Path, final: Path) -> None:
        final.write_text("theirs")
        add(new, final)

    monkeypatch.setattr(certificates, "_link_unless_exists", late)
    with pytest.raises(FileExistsError):
        certificates.write_certificates(tmp_path / "certs", certificates.create_certificates())
    assert (tmp_path / "certs" / "ca.pem").read_text() == "theirs"


def test_keys_are_not_written_to_a_file_system_without_permissions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SMB and exFAT report all files as readable by everybody, and chmod has no effect."""
    fstat = os.fstat

    def of_everybody(file: int) -> os.stat_result:
        return os.stat_result((fstat(file).st_mode | 0o777, *fstat(file)[1:]))

    monkeypatch.setattr(os, "fstat", of_everybody)
    with pytest.raises(CertificateError, match="supports no permissions"):
        certificates.write_certificates(tmp_path / "certs", certificates.create_certificates())


def test_a_host_name_that_is_not_ascii_is_refused_with_its_flag() -> None:
    """A certificate holds names in their IDNA form only."""
    with pytest.raises(ClusterError, match=r"--hosts is 'bücher.example': .* xn--"):
        certificates.create_certificates(hosts=["bücher.example"])


@pytest.mark.parametrize("token", [b" \n", b"\xff"], ids=["blank", "no text"])
def test_a_token_without_text_is_refused(tmp_path: Path, token: bytes) -> None:
    """The error names the file, also if it cannot be decoded."""
    (tmp_path / "token").write_bytes(token)
    (tmp_path / "token").chmod(0o600)
    with pytest.raises(CertificateError, match=str(tmp_path / "token")):
        certificates.check_token(tmp_path)
