"""The cluster that a command runs on: a temporary one, or a connection to a running one.

    local                  workers on this machine, while the command runs (default)
    tcp://... tls://...    a scheduler that is already running
    ssh:FILE               workers on the hosts listed in FILE, while the command runs
    slurm:FILE             workers that Slurm starts, as described by the profile in FILE

The cluster is started, or connected to, when it is first needed.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from distributed import Client

from cluster import certificates
from cluster.broadcast import NoResponseError, broadcast
from cluster.connect import check_address, connect, wait_for
from cluster.errors import ClusterError
from cluster.limits import cores
from cluster.local import LocalWorkers
from cluster.processes import commands, supervisor
from cluster.ranks.slots import workers_for_ranks
from cluster.slurm import allocation
from cluster.slurm.cluster import SlurmCluster
from cluster.slurm.profile import read_profile
from cluster.ssh import SshCluster, read_hosts
from cluster.versions import compare_versions
from pipeline import code_digest
from pipeline.errors import StoreError, TesseraeError
from pipeline.ingest.worker import ShardTaskConfig, check_worker
from pipeline.memory import limit_bytes
from workflows.options.cluster import ClusterOptions
from workflows.terminal.signals import held_back

PRELOAD = ("pipeline.ingest.shard_task",)
"""The modules that the fork server imports once, instead of every worker."""

PACKAGES = (
    "dask", "distributed", "msgpack", "cloudpickle", "numpy", "numcodecs", "pyarrow", "simplejpeg",
    "xxhash", "zarr",
)  # fmt: skip
"""The packages whose versions must agree on all machines. Pillow is checked by its pixels instead
(`pipeline.images.probe`)."""

CONNECT_SECONDS = 35.0
"""How long a scheduler may take to answer; longer than a supervisor's pause before a restart."""
WORKER_TIMEOUT_SECONDS = 60.0
"""How long the first worker may take to connect."""
POLL_SECONDS = 0.1

REMOTE_PREFIXES = ("ssh:", "slurm:")
"""The prefixes of `--cluster` that start workers on other machines while a command runs."""


def of(options: ClusterOptions) -> Cluster:
    """Return the cluster that the options of a command describe, without starting it."""
    return Cluster(
        workers=cores() if options.workers is None else options.workers,
        threads=options.threads,
        dashboard=options.dashboard,
        where=options.cluster,
        certs=options.certs,
    )


def work_for_first(options: ClusterOptions) -> bool:
    """Run workers until the command has ended, if this process is not the first of a Slurm step.

    srun starts the same command on every node; only the first process runs it.

    Returns:
        True if this process ran workers, and has nothing else to do.
    """
    if not options.cluster.startswith("slurm:"):
        return False
    profile = read_profile(Path(options.cluster.removeprefix("slurm:")))
    if profile.way != "allocation" or allocation.step_rank() == 0:
        return False
    address, folder, ended = allocation.wait_for_scheduler(profile)
    workers = cores() if options.workers is None else options.workers
    gpus = commands.visible_gpus()
    config = commands.WorkerConfig(
        address=address,
        workers=workers,
        threads=options.threads,
        memory_limit=limit_bytes() // (workers + len(gpus)),
        gpus=gpus,
        scratch=None if profile.scratch is None else Path(profile.scratch),
        certificates=folder,
        preload=PRELOAD,
    )
    supervisor.supervise(commands.worker_programs(config), report=_notice, done=ended)
    return True


class Cluster:
    """A context manager that holds a cluster and its client."""

    def __init__(
        self,
        *,
        workers: int,
        threads: int,
        dashboard: bool,
        where: str = "local",
        certs: str | None = None,
    ) -> None:
        """Configure a cluster without starting it.

        Args:
            workers: Number of worker processes of a local cluster, or of each node of a Slurm
                allocation.
            threads: Number of threads in each worker.
            dashboard: True if a local cluster serves the dashboard.
            where: `local`, the address of a scheduler, `ssh:FILE` or `slurm:FILE` (default local).
            certs: The folder of certificates, for a tls:// address (default: the user's own).

        Raises:
            ClusterError: *where* is none of these.
        """
        check_where(where)
        self._where = where
        self._certs = certs
        self._shape = (workers, threads)
        self._workers_per_node = workers
        """The number of worker processes on each node of a Slurm allocation."""
        self._dashboard = dashboard
        self._stack = ExitStack()
        self._backend: (
            LocalWorkers | SshCluster | SlurmCluster | allocation.SlurmAllocation | None
        ) = None
        self._client: Client | None = None
        self._interrupted = False
        self._gpus: list[str] = []

    @property
    def client(self) -> Client:
        """The client of the cluster, started if need be, with at least one worker connected."""
        if self._client is None:
            if self._where == "local":
                self._client = self._start()
            elif self._where.startswith(REMOTE_PREFIXES):
                self._client = self._start_remote()
            else:
                self._client = self._connect()
            wait_for(self._client, workers=1, timeout_seconds=WORKER_TIMEOUT_SECONDS)
            if self.stands:
                self._compare(PACKAGES)
        return self._client

    @property
    def stands(self) -> bool:
        """True if the workers may run on other machines, which need not be like this one."""
        return self._where != "local"

    def look(self) -> None:
        """Connect to a non-local cluster now, so that errors appear before any work begins.

        Raises:
            ClusterError: The scheduler does not answer, or a worker runs other code.
        """
        if self.stands:
            self.client  # noqa: B018 - reading the property connects and checks the versions

    def check_ranks(self, *, gpu: bool) -> None:
        """Compare the code and the torch version of the workers that ranks may run on.

        Args:
            gpu: True if each rank needs a GPU.

        Raises:
            ClusterError: A worker runs other code, or another version of torch.
        """
        if self.stands:
            workers = workers_for_ranks(self.client, gpu=gpu)
            self._compare((), must_match=("torch",), workers=workers)

    def _compare(self, packages: Sequence[str], **how: Any) -> None:
        assert self._client is not None
        for difference in compare_versions(self._client, packages, code_digest.trees, **how):
            _notice(difference)

    def ask_workers(self, work: ShardTaskConfig) -> None:
        """Have every worker of a non-local cluster check the store, the source and its pixels.

        Raises:
            StoreError: A worker sees another store, or produces other pixels.
            SourceError: A worker cannot read the source.
        """
        if not self.stands:
            return
        for worker, answer in sorted(broadcast(self.client, check_worker, work).items()):
            if isinstance(answer, TesseraeError):
                raise type(answer)(f"worker {worker}: {answer}")
            if isinstance(answer, NoResponseError):
                continue  # it is shutting down or hangs; its tasks will run on another worker
            if isinstance(answer, BaseException):
                raise StoreError(f"worker {worker} failed: {type(answer).__name__}: {answer}")

    def shape(self, workers: int) -> None:
        """Set the number of local workers, before the cluster is started."""
        self._shape = (workers, self._shape[1])

    def use_gpus(self, count: int | None) -> None:
        """Add a local worker for each of the first *count* GPUs of this machine; None is all."""
        if self._where == "local":
            self._gpus = commands.visible_gpus()[:count]

    def interrupt(self) -> None:
        """Raise KeyboardInterrupt in other threads that use the cluster, at their next `keep`."""
        self._interrupted = True

    def keep(self) -> None:
        """Replace workers that were lost, if this command started them.

        Raises:
            KeyboardInterrupt: `interrupt` was called, and this is not the main thread.
        """
        # Signals reach the main thread only; other threads learn of Ctrl-C here.
        if self._interrupted and threading.current_thread() is not threading.main_thread():
            raise KeyboardInterrupt
        if self._backend is not None:
            self._backend.maintain()

    def worker_memory(self) -> list[tuple[int, int]]:
        """Return (memory limit in bytes, threads) of each worker that has a limit."""
        if not self.stands:
            workers, threads = self._shape
            return [(limit_bytes() // workers, threads)]
        workers = self.client.scheduler_info(n_workers=-1)["workers"].values()
        return [(w["memory_limit"], w["nthreads"]) for w in workers if w["memory_limit"]]

    def _start(self) -> Client:
        with held_back():  # an interrupted start would leave processes that nothing closes
            try:
                local = LocalWorkers(
                    *self._shape,
                    memory_limit=limit_bytes() // self._shape[0],
                    dashboard=self._dashboard,
                    preload=PRELOAD,
                    gpus=self._gpus,
                )
            except (RuntimeError, OSError) as e:
                raise TesseraeError(
                    f"the {self._shape[0]} workers failed to start ({e.__cause__ or e}). Pass fewer"
                    " --workers, and run `tesserae doctor`."
                ) from e
            self._backend = self._stack.enter_context(local)
            client: Client = self._stack.enter_context(Client(local.cluster))
        if self._dashboard:
            print(f"dashboard: {_page_of(local.dashboard)}", flush=True)
        return client

    def _start_remote(self) -> Client:
        with held_back():
            backend = self._remote_backend()
            self._stack.push(backend)
            self._backend = backend
            client: Client = self._stack.enter_context(backend.client())
        if self._dashboard:
            print(f"dashboard: {_page_of(backend.dashboard)}", flush=True)
        while not client.nthreads():  # a batch system may queue jobs for hours: no timeout
            backend.check_startup()
            backend.maintain()
            time.sleep(POLL_SECONDS)
        return client

    def _remote_backend(self) -> SshCluster | SlurmCluster | allocation.SlurmAllocation:
        kind, _, file = self._where.partition(":")
        if kind == "ssh":
            return SshCluster(read_hosts(Path(file)), dashboard=self._dashboard, report=_notice)
        profile = read_profile(Path(file))
        if profile.way == "allocation":
            return allocation.SlurmAllocation(
                profile,
                dashboard=self._dashboard,
                workers=self._workers_per_node,
                threads=self._shape[1],
            )
        return SlurmCluster(profile, dashboard=self._dashboard, report=_notice)

    def _connect(self) -> Client:
        folder = certificates.existing_folder(self._certs)
        client = self._stack.enter_context(
            connect(self._where, folder, timeout_seconds=CONNECT_SECONDS, report=_notice)
        )
        if self._dashboard:
            print(f"dashboard: `tesserae cluster status {self._where}` shows its URL", flush=True)
        return client

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *error: Any) -> None:
        with held_back():
            self._stack.__exit__(*error)


def check_where(where: str) -> None:
    """Check the value of `--cluster`.

    Raises:
        ClusterError: It is neither `local`, an address, `ssh:FILE` nor `slurm:FILE`, or the file is
            invalid.
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
        raise ClusterError(f"--cluster: {e} Or pass local, ssh:FILE or slurm:FILE.") from None


def _page_of(link: str) -> str:
    """Return the URL of the Tesserae page, given the URL of Dask's own status page."""
    return f"{link.removesuffix('/status').rstrip('/')}/tesserae"


def _notice(line: str) -> None:
    print(f"notice: {line}", flush=True)
