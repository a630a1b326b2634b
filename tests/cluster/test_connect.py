"""Connections to a scheduler on another machine, and their timeouts."""

from __future__ import annotations

import asyncio
import gc
import socket
import ssl
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from distributed.comm import Comm, listen
from distributed.comm import connect as open_comm

from cluster import certificates
from cluster.connect import ReconnectTimeout, connect, probe_scheduler
from cluster.errors import CertificateError, ClusterError
from tests.commands import wait_until


def test_a_reachable_scheduler_may_be_silent() -> None:
    """The scheduler is checked more often than the timeout, however short that is."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        patience = ReconnectTimeout(f"tls://127.0.0.1:{server.getsockname()[1]}", 0.4)
        until = time.monotonic() + 1.5
        while time.monotonic() < until:
            assert not patience.has_expired()
            time.sleep(0.02)


def test_an_unreachable_scheduler_is_given_up_after_the_timeout() -> None:
    """The client does not give up at once."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    patience = ReconnectTimeout(f"tcp://127.0.0.1:{port}", 0.4)
    assert not patience.has_expired()
    time.sleep(0.5)
    assert patience.has_expired()


@pytest.fixture(scope="module")
def authorities(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Write certificates of two authorities, and return both folders."""
    folder = tmp_path_factory.mktemp("authorities")
    for name in ("ours", "theirs"):
        certificates.write_certificates(folder / name, certificates.create_certificates())
    return folder / "ours", folder / "theirs"


@contextmanager
def server(certs: Path) -> Iterator[str]:
    """Run a TLS server that sends a byte to each client, as a scheduler would; yield its URL."""
    context = certificates.tls_security(certs).get_listen_args("scheduler")["ssl_context"]
    with socket.create_server(("127.0.0.1", 0)) as listening:
        stopped = threading.Event()

        def serve() -> None:
            while not stopped.is_set():
                with suppress(OSError):
                    plain, _ = listening.accept()
                    with plain, context.wrap_socket(plain, server_side=True) as secure:
                        secure.sendall(b"x")

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield f"tls://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            stopped.set()
            listening.shutdown(socket.SHUT_RDWR)
            thread.join()


def test_a_scheduler_of_the_same_authority_is_reached(authorities: tuple[Path, Path]) -> None:
    """Clients and workers reach the scheduler, each with its own certificate."""
    ours, _ = authorities
    with server(ours) as address:
        for role in ("client", "worker"):
            assert probe_scheduler(address, certificates.tls_security(ours, [role]), role) is None


def test_certificates_of_another_authority_are_an_error_at_once(
    authorities: tuple[Path, Path],
) -> None:
    """Waiting would not help, however long the timeout is."""
    ours, theirs = authorities
    with server(theirs) as address:
        security = certificates.tls_security(ours, ["worker"])
        with pytest.raises(
            CertificateError, match=r"presents a certificate of another authority .* --certs"
        ):
            ReconnectTimeout(address, float("inf"), security)
        with (
            pytest.raises(CertificateError, match="presents a certificate of another authority"),
            connect(address, ours, timeout_seconds=600),
        ):
            pass


def test_a_rejected_certificate_is_distinguished_from_an_unreachable_scheduler(
    authorities: tuple[Path, Path],
) -> None:
    """The scheduler trusts another authority, so its side refuses the connection."""
    ours, theirs = authorities
    context = certificates.tls_security(ours).get_listen_args("scheduler")["ssl_context"]
    strict = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    strict.load_cert_chain(ours / "scheduler.pem", ours / "scheduler.key")
    strict.load_verify_locations(theirs / "ca.pem")
    strict.verify_mode = ssl.CERT_REQUIRED
    strict.minimum_version = context.minimum_version
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def refuse() -> None:
            plain, _ = listening.accept()
            with plain, suppress(OSError):
                strict.wrap_socket(plain, server_side=True)

        thread = threading.Thread(target=refuse, daemon=True)
        thread.start()
        address = f"tls://127.0.0.1:{listening.getsockname()[1]}"
        with pytest.raises(CertificateError, match="rejects this machine's certificate"):
            probe_scheduler(address, certificates.tls_security(ours, ["worker"]), "worker")
        thread.join()


def test_a_scheduler_without_tls_is_named(authorities: tuple[Path, Path]) -> None:
    """The error contains the address without TLS."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def greet() -> None:
            plain, _ = listening.accept()
            with plain, suppress(OSError):
                plain.sendall(bytes(100))
                plain.recv(1000)

        thread = threading.Thread(target=greet, daemon=True)
        thread.start()
        port = listening.getsockname()[1]
        security = certificates.tls_security(authorities[0], ["worker"])
        with pytest.raises(CertificateError, match=rf"tcp://127.0.0.1:{port}\."):
            probe_scheduler(f"tls://127.0.0.1:{port}", security, "worker")
        thread.join()


def test_renewed_certificates_are_awaited_for_a_while(
    authorities: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A scheduler that rejects its workers may be about to renew their certificates."""
    ours, theirs = authorities
    monkeypatch.setattr("cluster.connect.PROBE_INTERVAL_SECONDS", 0.0)
    monkeypatch.setattr("cluster.connect.REJECTED_CERTIFICATE_RETRY_SECONDS", 0.3)
    security = certificates.tls_security(ours, ["worker"])
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
    patience = ReconnectTimeout(f"tls://127.0.0.1:{port}", float("inf"), security)
    with server(theirs) as address:
        patience._address = address
        assert not patience.has_expired()
        with pytest.raises(CertificateError):
            assert wait_until(patience.has_expired, 20)


def test_waiting_for_a_scheduler_is_reported_at_once(authorities: tuple[Path, Path]) -> None:
    """The line has the reason, and the timeout after which the wait is an error."""
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
    messages: list[str] = []
    with (
        pytest.raises(ClusterError, match=r"does not answer \(Connection refused\)"),
        connect(
            f"tls://127.0.0.1:{port}", authorities[0], timeout_seconds=0.2, report=messages.append
        ),
    ):
        pass
    assert len(messages) == 1
    assert "Connection refused); waiting for 0.2 s" in messages[0]


def test_secured_peers_refuse_unencrypted_connections(
    authorities: tuple[Path, Path],
) -> None:
    """Certificates in a folder and in memory both require TLS."""
    files = certificates.create_certificates()
    for security in (
        certificates.tls_security(authorities[0]),
        certificates.tls_security_in_memory(files),
    ):
        for role in certificates.ROLES:
            how = security.get_connection_args(role)
            assert how["require_encryption"]
            assert how["ssl_context"].minimum_version == ssl.TLSVersion.TLSv1_3
            with pytest.raises(RuntimeError, match="encryption required"):
                asyncio.run(open_comm("tcp://127.0.0.1:1", **how))


def test_a_peer_that_dies_before_the_handshake_does_no_harm(
    authorities: tuple[Path, Path],
) -> None:
    """A scheduler accepts the next peer, and the reset connection leaves no warning."""
    security = certificates.tls_security(authorities[0])

    async def greet(comm: Comm) -> None:
        await comm.write("hello")
        await comm.close()

    async def greeting_after_resets() -> object:
        async with listen(
            "tls://127.0.0.1:0", greet, **security.get_listen_args("scheduler")
        ) as listener:
            _, _, port = listener.contact_address.rpartition(":")
            for sent in (b"", b"\x16"):
                # The listener cannot accept before this coroutine awaits: it finds a dead peer.
                with socket.create_connection(("127.0.0.1", int(port))) as peer:
                    peer.sendall(sent)
                    reset = struct.pack("ii", 1, 0)
                    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
            worker = await open_comm(
                listener.contact_address, **security.get_connection_args("worker")
            )
            greeting: object = await worker.read()
            await worker.close()
            return greeting

    assert asyncio.run(greeting_after_resets()) == "hello"
    gc.collect()
