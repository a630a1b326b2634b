"""A scheduler that runs already: connected to, and asked who works for it."""

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
from cluster.config import hush, in_force
from cluster.errors import CertificateError, ClusterError

LOOK_SECONDS = 0.1
GRACE_SECONDS = 2.0
REACH_SECONDS = 10.0
"""Between two looks at whether a scheduler can be reached."""
AGAIN_SECONDS = 0.5
"""Pause between two attempts of a command to reach its scheduler."""
REFUSED_SECONDS = 60.0
"""How long workers bear a scheduler that does not trust them: its certificates may be just being
renewed."""


def check_address(address: str) -> None:
    """Refuse what is no scheduler's address.

    Raises:
        ClusterError: With what was expected.
    """
    try:
        split = urlsplit(address)
        whole = split.hostname and split.port and address == f"{split.scheme}://{split.netloc}"
        whole = whole and split.scheme in ("tcp", "tls")
    except ValueError:  # a port that is no number
        whole = False
    if not whole:
        raise ClusterError(
            f"{address!r} is no scheduler's address: expected e.g. tls://10.0.0.1:8786."
        )


def reach(address: str, security: Security | None, role: str) -> str | None:
    """Connect to a scheduler as *role*, and hang up.

    One that takes the connection and then says nothing is there: it is busy, or was stopped.

    Args:
        address: Of the scheduler.
        security: The certificates that are shown; None without TLS.
        role: `client` or `worker`.

    Returns:
        Why it cannot be reached now; None if it can.

    Raises:
        CertificateError: It can, and one side does not trust the other.
    """
    split = urlsplit(address)
    at = (str(split.hostname), split.port or 0)
    try:
        with socket.create_connection(at, timeout=GRACE_SECONDS) as plain:
            return None if security is None else _shake_hands(plain, security, role)
    except ssl.SSLError as e:
        return _refusal(address, e)
    except OSError as e:
        return e.strerror or str(e)


def _shake_hands(plain: socket.socket, security: Security, role: str) -> str | None:
    context = security.get_connection_args(role)["ssl_context"]
    with suppress(TimeoutError), context.wrap_socket(plain) as secure:
        secure.recv(1)  # what it thinks of our certificate comes before its first word
    return None


UNTRUSTED = "CERTIFICATE_VERIFY_FAILED"
NOT_TLS = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST", "UNKNOWN_PROTOCOL")


def _refusal(address: str, error: ssl.SSLError) -> str:
    reason = str(error.reason or error)
    if reason == UNTRUSTED or "ALERT" in reason:
        whose = (
            "does not take this machine's certificate"
            if reason != UNTRUSTED
            else ("shows a certificate that is not of this machine's authority")
        )
        raise CertificateError(
            f"the scheduler {address} {whose} ({reason.lower().replace('_', ' ')}). Copy ca.pem and"
            " the certificate of this role from where that scheduler's were made, and name their"
            " folder with --certs."
        ) from None
    if reason in NOT_TLS:
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
    seconds: float,
    say: Callable[[str], None] = lambda _: None,
) -> Iterator[Client]:
    """A client of the scheduler at *address*, under our settings for as long as it is open.

    Args:
        address: `tcp://HOST:PORT` or `tls://HOST:PORT`.
        certs: The folder of certificates, for TLS.
        seconds: How long it may take to answer.
        say: Told at once, in a line, that it does not answer yet, and how long that is borne.

    Raises:
        CertificateError: There is none to show, or it is not trusted.
        ClusterError: The scheduler does not answer, or is lost while it is asked something.
    """
    check_address(address)
    if not 0 < seconds <= 10_000_000:
        raise ValueError(f"--seconds is {seconds:g}: expected more than 0, at most 10,000,000.")
    tls = address.startswith("tls://")
    if tls and certs is None:
        raise CertificateError(
            f"{address} asks for a certificate. Copy ca.pem, client.pem and client.key from the"
            f" machine that made them to {certificates.named(None)}, or name their folder with"
            " --certs."
        )
    security = certificates.security(certs, ["client"]) if tls and certs else None
    hush()
    _wait_until_reached(address, security, seconds, say)
    with in_force(), _client(address, security, seconds) as client:
        try:
            yield client
        except CommClosedError as e:
            raise ClusterError(
                f"the scheduler {address} was lost. Run the same command again to go on."
            ) from e


def _wait_until_reached(
    address: str, security: Security | None, seconds: float, say: Callable[[str], None]
) -> None:
    until = time.monotonic() + seconds
    told = False
    while (why := reach(address, security, "client")) is not None:
        if time.monotonic() > until:
            raise ClusterError(_no_answer(address, why))
        if not told:
            told = True
            say(f"the scheduler {address} does not answer yet ({why}); waiting for {seconds:g} s")
        time.sleep(min(AGAIN_SECONDS, seconds / 4))


def _no_answer(address: str, why: str) -> str:
    tls = address.startswith("tls://")
    both = "that both hold certificates of one authority" if tls else "that it is not tls://"
    return (
        f"the scheduler {address} does not answer ({why}). See that it runs, that this machine"
        f" reaches it, and {both}."
    )


def _client(address: str, security: Security | None, seconds: float) -> Client:
    # In a thread: Dask waits for ever for a peer that takes a connection and then says nothing, and
    # a person's Ctrl-C is for this one.
    made: list[Client | Exception] = []

    def make() -> None:
        try:
            made.append(Client(address, security=security, timeout=max(1.0, seconds)))
        except Exception as e:  # noqa: BLE001 - whatever it is, it is told below
            made.append(e)

    thread = threading.Thread(target=make, name="connect", daemon=True)
    thread.start()
    thread.join(seconds + GRACE_SECONDS)
    found = made[0] if made else TimeoutError("it takes the connection, and says nothing")
    if isinstance(found, Client):
        return found
    raise ClusterError(_no_answer(address, _first_line(found.__cause__ or found))) from found


class Patience:
    """Notes when a scheduler has not been reached for too long."""

    def __init__(self, address: str, seconds: float, security: Security | None = None) -> None:
        """Look once, for what would never end well.

        Args:
            address: Of the scheduler.
            seconds: How long workers wait for it.
            security: The certificates that they show; None without TLS.

        Raises:
            CertificateError: It is there, and one side does not trust the other.
        """
        self._address = address
        self._seconds = seconds
        self._security = security
        reach(address, security, "worker")
        self._reached = self._looked = time.monotonic()
        self._refused: float | None = None

    def over(self) -> bool:
        """Whether it has. May be asked all the time.

        Raises:
            CertificateError: It does not trust its workers any more, or they not it.
        """
        now = time.monotonic()
        if now - self._looked > min(REACH_SECONDS, self._seconds / 4):
            self._looked = now
            self._look(now)
        return now - self._reached > self._seconds

    def _look(self, now: float) -> None:
        try:
            if reach(self._address, self._security, "worker") is None:
                self._reached = now
        except CertificateError:
            self._refused = self._refused or now
            if now - self._refused >= min(self._seconds, REFUSED_SECONDS):
                raise
        else:
            self._refused = None


def wait_for(client: Client, *, workers: int, gpus: int = 0, seconds: float) -> None:
    """Wait until so many workers and GPUs are there.

    Raises:
        ClusterError: They did not come.
    """
    until = time.monotonic() + seconds
    while True:
        there, with_gpu = client.run_on_scheduler(_count)
        if there >= workers and with_gpu >= gpus:
            return
        if time.monotonic() > until:
            break
        time.sleep(LOOK_SECONDS)
    wanted = {"worker": (workers, there), "GPU": (gpus, with_gpu)}
    missing = " and ".join(
        f"{count} {what}{'s' * (count != 1)} ({found} there)"
        for what, (count, found) in wanted.items()
        if count > found
    )
    raise ClusterError(
        f"the cluster did not have {missing} within {seconds:.0f} s. Look at the logs of"
        " `tesserae cluster worker`, and at `tesserae cluster status`."
    )


def _count(dask_scheduler: Scheduler) -> tuple[int, int]:
    found = dask_scheduler.workers.values()
    return len(found), int(sum(worker.resources.get("GPU", 0) for worker in found))


def _first_line(error: BaseException) -> str:
    text = re.sub(r"^in <.*?>: ", "", str(error))
    return (text or type(error).__name__).strip().splitlines()[0]
