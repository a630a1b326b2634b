"""The cluster a command runs on: one of its own, or one that stands already.

    local                  workers on this machine, for as long as the command runs (default)
    tcp://... tls://...    a scheduler that runs already
    ssh:FILE               workers on the machines that FILE names, for as long as the command runs
    slurm:FILE             workers of a batch system, as the profile FILE says

It is started, or connected to, when it is first needed and no earlier.
"""

from __future__ import annotations

import argparse
import getpass
import socket
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from distributed import Client

from cluster import certificates
from cluster.broadcast import Silent, ask
from cluster.connect import check_address, connect, wait_for
from cluster.cores import cores
from cluster.errors import ClusterError
from cluster.local import Local
from cluster.processes import commands, supervisor
from cluster.ranks.world import workers_for_ranks
from cluster.slurm import allocation
from cluster.slurm.cluster import SlurmJobs, read_profile
from cluster.ssh import Ssh, read_hosts
from cluster.versions import compare
from pipeline import code_digest
from pipeline.errors import StoreError, TesseraeError
from pipeline.ingest.preflight import join
from pipeline.ingest.shard import Work
from pipeline.memory import limit_bytes
from workflows.terminal.signals import held_back

PRELOAD = ("pipeline.ingest.shard",)
"""Imported once by the fork server, not once by every worker."""

PACKAGES = (
    "dask", "distributed", "msgpack", "cloudpickle", "numpy", "numcodecs", "pyarrow", "simplejpeg",
    "xxhash", "zarr",
)  # fmt: skip
"""Compared on every machine. Pillow is not: its pixels are (`pipeline.images.probe`)."""

CONNECT_SECONDS = 35.0
"""How long a scheduler may take to answer: longer than the pause before it is started again."""
WAIT_SECONDS = 60.0
"""How long the first worker may take to come."""
LOOK_SECONDS = 0.1

FAR = ("ssh:", "slurm:")
"""Workers on other machines, for as long as a command runs."""


def of(args: argparse.Namespace) -> Cluster:
    """The cluster that a command line asks for."""
    return Cluster(
        workers=cores() if args.workers is None else args.workers,
        threads=args.threads,
        dashboard=args.dashboard,
        where=args.cluster,
        certs=args.certs,
    )


def work_for_first(args: argparse.Namespace) -> bool:
    """In a process that srun started to work, do so until the first has ended; whether it is one.

    Of the processes of a step of Slurm the first alone runs the command.
    """
    if not args.cluster.startswith("slurm:"):
        return False
    profile = read_profile(Path(args.cluster.removeprefix("slurm:")))
    if profile.way != "allocation" or allocation.place_in_step() == 0:
        return False
    address, folder, ended = allocation.wait_for_first(profile)
    workers = cores() if args.workers is None else args.workers
    gpus = commands.gpus()
    wish = commands.WorkerWish(
        address=address,
        workers=workers,
        threads=args.threads,
        memory_limit=limit_bytes() // (workers + len(gpus)),
        gpus=gpus,
        scratch=None if profile.scratch is None else Path(profile.scratch),
        certificates=folder,
        preload=PRELOAD,
    )
    supervisor.keep(commands.workers(wish), say=_notice, done=ended)
    return True


class Cluster:
    """A cluster and its client. Use as a context manager."""

    def __init__(
        self,
        *,
        workers: int,
        threads: int,
        dashboard: bool,
        where: str = "local",
        certs: str | None = None,
    ) -> None:
        """Start nothing yet.

        Args:
            workers: Processes of a local cluster, or of each node of an allocation.
            threads: Tasks that each of them runs at once.
            dashboard: Whether a local cluster serves the dashboard.
            where: `local`, or the address of a scheduler.
            certs: The folder of certificates, for an address with TLS.

        Raises:
            ClusterError: *where* is neither.
        """
        check_where(where)
        self._where = where
        self._certs = certs
        self._shape = (workers, threads)
        self._of_node = workers
        """Worker processes of each node, where a batch system has given nodes to the command."""
        self._dashboard = dashboard
        self._stack = ExitStack()
        self._kept: Local | Ssh | SlurmJobs | allocation.Allocation | None = None
        self._client: Client | None = None
        self._interrupted = False
        self._gpus: list[str] = []

    @property
    def client(self) -> Client:
        """The client, and with it workers that are there."""
        if self._client is None:
            if self._where == "local":
                self._client = self._start()
            elif self._where.startswith(FAR):
                self._client = self._start_far()
            else:
                self._client = self._connect()
            wait_for(self._client, workers=1, seconds=WAIT_SECONDS)
            if self.stands:
                self._compare(PACKAGES)
        return self._client

    @property
    def stands(self) -> bool:
        """Whether it was there before, on machines that need not be like this one."""
        return self._where != "local"

    def look(self) -> None:
        """Connect to a cluster that stands: what is wrong with it is said before work begins.

        Raises:
            ClusterError: It does not answer, or a worker has other code.
        """
        if self.stands:
            self.client  # noqa: B018 - it is connected to, and asked, when it is first wanted

    def check_ranks(self, *, gpu: bool) -> None:
        """Ask the workers that ranks may run on for their code and their torch.

        Args:
            gpu: Whether ranks are to have a GPU.

        Raises:
            ClusterError: One has other code, or torch of another version.
        """
        if self.stands:
            workers = workers_for_ranks(self.client, gpu=gpu)
            self._compare((), alike=("torch",), workers=workers)

    def _compare(self, packages: Sequence[str], **how: Any) -> None:
        assert self._client is not None
        for difference in compare(self._client, packages, code_digest.trees, **how):
            _notice(difference)

    def ask_workers(self, work: Work) -> None:
        """Have every worker of a cluster that stands look at store and source, before its shards.

        Raises:
            StoreError: One of them sees another store, or makes other pixels.
            SourceError: One of them does not see the source.
        """
        if not self.stands:
            return
        for worker, answer in sorted(ask(self.client, join, work).items()):
            if isinstance(answer, TesseraeError):
                raise type(answer)(f"worker {worker}: {answer}")
            if isinstance(answer, Silent):
                continue  # it is just ending, or does not answer; its tasks are asked again
            if isinstance(answer, BaseException):
                raise StoreError(f"worker {worker} failed: {type(answer).__name__}: {answer}")

    def shape(self, workers: int) -> None:
        """Have so many local workers, before it is started."""
        self._shape = (workers, self._shape[1])

    def use_gpus(self, most: int | None) -> None:
        """Have a local worker for each GPU of this machine too, or for the first *most*."""
        if self._where == "local":
            self._gpus = commands.gpus()[:most]

    def interrupt(self) -> None:
        """Have other threads that work on it stop at their next `keep`, as by Ctrl-C."""
        self._interrupted = True

    def keep(self) -> None:
        """Replace workers that are gone for good, where they are ours to replace."""
        if self._interrupted and threading.current_thread() is not threading.main_thread():
            raise KeyboardInterrupt
        if self._kept is not None:
            self._kept.keep()

    def worker_memory(self) -> list[tuple[int, int]]:
        """Bytes and threads of each worker whose memory is limited."""
        if not self.stands:
            workers, threads = self._shape
            return [(limit_bytes() // workers, threads)]
        workers = self.client.scheduler_info(n_workers=-1)["workers"].values()
        return [(w["memory_limit"], w["nthreads"]) for w in workers if w["memory_limit"]]

    def _start(self) -> Client:
        with held_back():  # half a cluster cannot be closed
            try:
                local = Local(
                    *self._shape,
                    memory_limit=limit_bytes() // self._shape[0],
                    dashboard=self._dashboard,
                    preload=PRELOAD,
                    gpus=self._gpus,
                )
            except (RuntimeError, OSError) as e:
                raise TesseraeError(
                    f"the {self._shape[0]} workers do not start ({e.__cause__ or e}). Pass fewer"
                    " --workers, and see `tesserae doctor`."
                ) from e
            self._kept = self._stack.enter_context(local)
            client: Client = self._stack.enter_context(Client(local.cluster))
        if self._dashboard:
            print(f"dashboard: {_page_of(local.dashboard)}", flush=True)
        return client

    def _start_far(self) -> Client:
        with held_back():
            made = self._make()
            self._stack.push(made)
            self._kept = made
            client: Client = self._stack.enter_context(made.client())
        if self._dashboard:
            print(f"dashboard: {_page_of(made.dashboard)}", flush=True)
        while not client.nthreads():  # a batch system may take its time
            made.check()
            made.keep()
            time.sleep(LOOK_SECONDS)
        return client

    def _make(self) -> Ssh | SlurmJobs | allocation.Allocation:
        way, _, file = self._where.partition(":")
        if way == "ssh":
            return Ssh(read_hosts(Path(file)), dashboard=self._dashboard, say=_notice)
        profile = read_profile(Path(file))
        if profile.way == "allocation":
            return allocation.Allocation(
                profile,
                dashboard=self._dashboard,
                workers=self._of_node,
                threads=self._shape[1],
            )
        return SlurmJobs(profile, dashboard=self._dashboard, say=_notice)

    def _connect(self) -> Client:
        folder = certificates.folder(self._certs)
        client = self._stack.enter_context(
            connect(self._where, folder, seconds=CONNECT_SECONDS, say=_notice)
        )
        if self._dashboard:
            print(f"dashboard: `tesserae cluster status {self._where}` says where", flush=True)
        return client

    def __enter__(self) -> Cluster:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with held_back():
            self._stack.__exit__(kind, error, trace)


def check_where(where: str) -> None:
    """Refuse what names no cluster.

    Raises:
        ClusterError: It is neither `local` nor an address.
    """
    if where == "local":
        return
    if where.startswith("ssh:"):
        read_hosts(Path(where.removeprefix("ssh:")))
        return
    if where.startswith("slurm:"):
        read_profile(Path(where.removeprefix("slurm:")))
        return
    try:
        check_address(where)
    except ClusterError as e:
        raise ClusterError(f"--cluster: {e} Or local, ssh:FILE or slurm:FILE.") from None


def _page_of(link: str) -> str:
    """Tesserae's page on the dashboard of which Dask shows another page first."""
    return f"{link.removesuffix('/status').rstrip('/')}/tesserae"


def _notice(line: str) -> None:
    print(f"notice: {line}", flush=True)


def say_dashboard(host: str, port: int, *, tls: bool, machine: str | None = None) -> None:
    """Print where a dashboard is, and how to come to it from elsewhere.

    Args:
        host: The address that it is on.
        port: The port.
        tls: Whether it is HTTPS, with a token.
        machine: The name of the machine that it is on; None = this one.
    """
    machine = machine or socket.gethostname()
    if tls:
        shown = machine if host in ("0.0.0.0", "::") else host
        shown = f"[{shown}]" if ":" in shown else shown
        print(f"dashboard: https://{shown}:{port}/tesserae?token=... (in the file token)")
        return
    print(f"dashboard: http://127.0.0.1:{port}/tesserae")
    print(f"  from elsewhere: ssh -N -L {port}:127.0.0.1:{port} {getpass.getuser()}@{machine}")
