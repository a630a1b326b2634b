"""Connections to a running scheduler: connect, wait for workers, and notice that it is gone."""

from __future__ import annotations

import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

from distributed import Client, Scheduler
from distributed.comm.core import CommClosedError
from distributed.security import Security

from cluster import certificates
from cluster.config import applied_settings, silence_client_logs
from cluster.errors import CertificateError, ClusterError

POLL_SECONDS = 0.1
CONNECT_TIMEOUT_SECONDS = 2.0
PROBE_INTERVAL_SECONDS = 10.0
"""The maximum interval between two checks of the connection by `ReconnectTimeout`."""
RETRY_SECONDS = 0.5
"""The pause between two attempts of a command to reach its scheduler."""
REJECTED_CERTIFICATE_RETRY_SECONDS = 60.0
"""How long workers retry a scheduler that rejects their certificate, which may just be being
renewed."""


def check_address(address: str) -> None:
    """Check that a text has the form of a scheduler's address; nothing is contacted.

    Args:
        address: Expected is `tcp://HOST:PORT` or `tls://HOST:PORT`.

    Raises:
        ClusterError: It has another form; the message shows the expected one.
    """
    try:
        split = urlsplit(address)
        is_valid = split.hostname and split.port and address == f"{split.scheme}://{split.netloc}"
        is_valid = is_valid and split.scheme in ("tcp", "tls")
    except ValueError:  # the port is not a number
        is_valid = False
    if not is_valid:
        raise ClusterError(
            f"{address!r} is not the address of a scheduler: expected e.g. tls://10.0.0.1:8786."
        )


def probe_scheduler(address: str, security: Security | None, role: str) -> str | None:
    """Connect to a scheduler in a role, and disconnect.

    A scheduler that accepts the connection and then sends nothing counts as reached: it is busy or
    suspended.

    Args:
        address: Address of the scheduler, `tcp://HOST:PORT` or `tls://HOST:PORT`.
        security: Certificates to present, as `tls_security` returns them; None connects without
            TLS, whatever *address* says, so that a TLS scheduler counts as reached.
        role: `client` or `worker`, whose certificate is presented.

    Returns:
        The reason why it cannot be reached within 2 seconds, as text; None if it can.

    Raises:
        CertificateError: It can be reached, and one side does not trust the other, or it does not
            speak TLS.
    """
    split = urlsplit(address)
    endpoint = (str(split.hostname), split.port or 0)
    try:
        with socket.create_connection(endpoint, timeout=CONNECT_TIMEOUT_SECONDS) as plain:
            return None if security is None else _handshake(plain, security, role)
    except ssl.SSLError as e:
        return _explain_tls_error(address, e)
    except OSError as e:
        return e.strerror or str(e)


def _handshake(plain: socket.socket, security: Security, role: str) -> str | None:
    context = security.get_connection_args(role)["ssl_context"]
    with suppress(TimeoutError), context.wrap_socket(plain) as secure:
        # In TLS 1.3 the server's verdict on our certificate arrives with its first data.
        secure.recv(1)
    return None


UNTRUSTED_REASON = "CERTIFICATE_VERIFY_FAILED"
NOT_TLS_REASONS = (
    "WRONG_VERSION_NUMBER",
    "RECORD_LAYER_FAILURE",
    "HTTP_REQUEST",
    "UNKNOWN_PROTOCOL",
)


def _explain_tls_error(address: str, error: ssl.SSLError) -> str:
    reason = str(error.reason or error)
    if reason == UNTRUSTED_REASON or "ALERT" in reason:
        problem = (
            "rejects this machine's certificate"
            if reason != UNTRUSTED_REASON
            else ("presents a certificate of another authority")
        )
        raise CertificateError(
            f"the scheduler {address} {problem} ({reason.lower().replace('_', ' ')}). Copy ca.pem"
            " and the certificate of this role from the machine where the scheduler's were"
            " created, and pass their folder with --certs."
        ) from None
    if reason in NOT_TLS_REASONS:
        raise CertificateError(
            f"the scheduler {address} does not speak TLS. If it runs without certificates, its"
            f" address is tcp://{address.removeprefix('tls://')}."
        ) from None
    return reason.lower().replace("_", " ")


@contextmanager
def connect(
    address: str,
    certs: Path | None,
    *,
    timeout_seconds: float,
    report: Callable[[str], None] = lambda _: None,
) -> Iterator[Client]:
    """Open a client of a scheduler, with Tesserae's Dask settings, inside the block.

    Dask's configuration, which is that of the whole process, has these settings meanwhile. The
    loggers `distributed` and `distributed.client` are set to the level CRITICAL, and stay there.

    Args:
        address: `tcp://HOST:PORT` or `tls://HOST:PORT`.
        certs: Folder of certificates for TLS; None without. It is not used for a tcp:// address.
        timeout_seconds: Timeout in seconds for the first answer, more than 0 and up to 10,000,000.
        report: Called with one line if the scheduler does not answer at once: the reason and the
            timeout (default: nothing is reported).

    Yields:
        The client, which is closed at the end of the block; the scheduler goes on.

    Raises:
        CertificateError: *certs* is None for a tls:// address, or a certificate is missing,
            expired, readable by others or not trusted.
        ClusterError: *address* is no address of a scheduler, the scheduler does not answer, or the
            connection is lost inside the block.
        ValueError: *timeout_seconds* is out of range.
    """
    check_address(address)
    if not 0 < timeout_seconds <= 10_000_000:
        raise ValueError(
            f"--timeout is {timeout_seconds:g}: expected more than 0, at most 10,000,000."
        )
    tls = address.startswith("tls://")
    if tls and certs is None:
        raise CertificateError(
            f"{address} requires a certificate. Copy ca.pem, client.pem and client.key from the"
            f" machine where they were created to {certificates.resolve_folder(None)}, or pass"
            " their folder with --certs."
        )
    security = certificates.tls_security(certs, ["client"]) if tls and certs else None
    silence_client_logs()
    _wait_until_reached(address, security, timeout_seconds, report)
    with applied_settings(), _open_client(address, security, timeout_seconds) as client:
        try:
            yield client
        except CommClosedError as e:
            raise ClusterError(
                f"the scheduler {address} was lost. Run the same command again to continue."
            ) from e


def _wait_until_reached(
    address: str, security: Security | None, timeout_seconds: float, report: Callable[[str], None]
) -> None:
    deadline = time.monotonic() + timeout_seconds
    reported = False
    while (reason := probe_scheduler(address, security, "client")) is not None:
        if time.monotonic() > deadline:
            raise ClusterError(_no_answer_text(address, reason))
        if not reported:
            reported = True
            report(
                f"the scheduler {address} does not answer yet ({reason}); waiting for"
                f" {timeout_seconds:g} s"
            )
        time.sleep(min(RETRY_SECONDS, timeout_seconds / 4))


def _no_answer_text(address: str, reason: str) -> str:
    tls = address.startswith("tls://")
    hint = (
        "that both have certificates of the same authority"
        if tls
        else "that it expects tcp://, not tls://"
    )
    return (
        f"the scheduler {address} does not answer ({reason}). Check that it runs, that this machine"
        f" can reach it, and {hint}."
    )


def _open_client(address: str, security: Security | None, seconds: float) -> Client:
    # In a thread: Dask waits forever for a peer that accepts a connection and then sends nothing.
    # The main thread stays free to time out, and to receive Ctrl-C.
    results: list[Client | Exception] = []

    def create() -> None:
        try:
            results.append(Client(address, security=security, timeout=max(1.0, seconds)))
        except Exception as e:  # noqa: BLE001 - any error is reported below
            results.append(e)

    thread = threading.Thread(target=create, name="connect", daemon=True)
    thread.start()
    thread.join(seconds + CONNECT_TIMEOUT_SECONDS)
    result = (
        results[0] if results else TimeoutError("it accepts the connection but does not respond")
    )
    if isinstance(result, Client):
        return result
    raise ClusterError(
        _no_answer_text(address, _first_error_line(result.__cause__ or result))
    ) from result


class ReconnectTimeout:
    """A timeout that expires when a scheduler was not reachable for too long."""

    def __init__(
        self, address: str, timeout_seconds: float, security: Security | None = None
    ) -> None:
        """Start the timeout, after one connection that detects untrusted certificates at once.

        Args:
            address: Address of the scheduler.
            timeout_seconds: How long the scheduler may be unreachable.
            security: Certificates that workers present; None without TLS (default: None).

        Raises:
            CertificateError: The scheduler was reached, and one side does not trust the other.
        """
        self._address = address
        self._seconds = timeout_seconds
        self._security = security
        probe_scheduler(address, security, "worker")
        self._last_reached = self._last_check = time.monotonic()
        self._refused_since: float | None = None

    def has_expired(self) -> bool:
        """Return True if the timeout has expired. Callers poll this; it limits its own rate.

        Raises:
            CertificateError: One side has not trusted the other for 60 seconds.
        """
        now = time.monotonic()
        if now - self._last_check > min(PROBE_INTERVAL_SECONDS, self._seconds / 4):
            self._last_check = now
            self._check(now)
        return now - self._last_reached > self._seconds

    def _check(self, now: float) -> None:
        try:
            if probe_scheduler(self._address, self._security, "worker") is None:
                self._last_reached = now
        except CertificateError:
            self._refused_since = self._refused_since or now
            if now - self._refused_since >= min(self._seconds, REJECTED_CERTIFICATE_RETRY_SECONDS):
                raise
        else:
            self._refused_since = None


def wait_for(client: Client, *, workers: int, gpus: int = 0, timeout_seconds: float) -> None:
    """Wait until the cluster has enough workers and GPUs.

    Args:
        client: A client of the cluster.
        workers: Minimum number of workers, those with a GPU included.
        gpus: Minimum number of GPUs, the sum of the resource `GPU` of all workers (default: 0).
        timeout_seconds: Timeout in seconds; with 0 or less the cluster is checked once.

    Raises:
        ClusterError: They did not join in time.
    """
    deadline = time.monotonic() + timeout_seconds
    while True:
        num_workers, num_gpus = client.run_on_scheduler(_count_workers_and_gpus)
        if num_workers >= workers and num_gpus >= gpus:
            return
        if time.monotonic() > deadline:
            break
        time.sleep(POLL_SECONDS)
    counts = {"worker": (workers, num_workers), "GPU": (gpus, num_gpus)}
    missing = " and ".join(
        f"{required} {kind}{'s' * (required != 1)} ({present} connected)"
        for kind, (required, present) in counts.items()
        if required > present
    )
    raise ClusterError(
        f"the cluster did not have {missing} within {timeout_seconds:.0f} s. See `tesserae"
        " cluster status` and the workers' logs."
    )


def _count_workers_and_gpus(dask_scheduler: Scheduler) -> tuple[int, int]:
    workers = dask_scheduler.workers.values()
    return len(workers), int(sum(worker.resources.get("GPU", 0) for worker in workers))


def _first_error_line(error: BaseException) -> str:
    text = re.sub(r"^in <.*?>: ", "", str(error))
    return (text or type(error).__name__).strip().splitlines()[0]
