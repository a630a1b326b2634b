"""A scheduler that runs already: connected to, and asked who works for it."""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

from distributed import Client, Scheduler
from distributed.comm.core import CommClosedError
from distributed.security import Security

from cluster import certificates
from cluster.errors import CertificateError, ClusterError
from cluster.settings import hush, in_force

LOOK_SECONDS = 0.1
GRACE_SECONDS = 2.0
REACH_SECONDS = 10.0
"""Between two looks at whether a scheduler can be reached."""


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


@contextmanager
def connect(address: str, certs: Path | None, *, seconds: float) -> Iterator[Client]:
    """A client of the scheduler at *address*, under our settings for as long as it is open.

    Args:
        address: `tcp://HOST:PORT` or `tls://HOST:PORT`.
        certs: The folder of certificates, for TLS.
        seconds: How long it may take to answer.

    Raises:
        CertificateError: There is none to show.
        ClusterError: The scheduler does not answer, or is lost while it is asked something.
    """
    check_address(address)
    if not 0 < seconds <= 10_000_000:
        raise ValueError(f"--seconds is {seconds:g}: expected more than 0.")
    tls = address.startswith("tls://")
    if tls and certs is None:
        raise CertificateError(
            f"{address} asks for a certificate. Copy ca.pem, client.pem and client.key from the"
            f" machine that made them to {certificates.named(None)}, or name their folder with"
            " --certs."
        )
    security = certificates.security(certs, ["client"]) if tls and certs else None
    hush()
    with in_force(), _client(address, security, seconds) as client:
        try:
            yield client
        except CommClosedError as e:
            raise ClusterError(
                f"the scheduler {address} was lost. Run the same command again to go on."
            ) from e


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
    raise ClusterError(
        f"the scheduler {address} does not answer ({_first_line(found.__cause__ or found)}). See"
        " that it runs, that this machine reaches it, and, with TLS, that both hold certificates of"
        " one authority."
    ) from found


class Patience:
    """Notes when a scheduler has not been reached for too long."""

    def __init__(self, address: str, seconds: float) -> None:
        split = urlsplit(address)
        self._at = (str(split.hostname), split.port or 0)
        self._seconds = seconds
        self._reached = self._looked = time.monotonic()

    def over(self) -> bool:
        """Whether it has. May be asked all the time."""
        now = time.monotonic()
        if now - self._looked > min(REACH_SECONDS, self._seconds / 4):
            self._looked = now
            with suppress(OSError):
                socket.create_connection(self._at, timeout=GRACE_SECONDS).close()
                self._reached = now
        return now - self._reached > self._seconds


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
