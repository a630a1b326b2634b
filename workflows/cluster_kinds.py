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
from contextlib import ExitStack, suppress
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
from workflows.dashboard.plugin import install_page
from workflows.options.cluster import ClusterOptions
from workflows.terminal.signals import deferred_signals

PRELOAD = ("pipeline.ingest.shard_task",)
"""The modules that the fork server imports once, so that no worker has to."""

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


def cluster_of(options: ClusterOptions) -> CommandCluster:
    """Return the cluster that the options of a command describe, without starting it.

    Args:
        options: The options of the command: `cluster` (`local`, the address of a scheduler,
            `ssh:FILE` or `slurm:FILE`), `workers` (of this machine, or of each node of a Slurm
            allocation; None for one per core), `threads` (of each), `dashboard` (True to serve it)
            and `certs`.

    Returns:
        The cluster, a context manager, whose attribute `client` is the Dask client. It starts, or
        connects, when `client` is first read inside its `with` block.

    Raises:
        ClusterError: `--cluster` is invalid, or its file is.
    """
    return CommandCluster(
        workers=options.workers or cores(),
        threads=options.threads,
        dashboard=options.dashboard,
        where=options.cluster,
        certs=options.certs,
    )


def run_as_slurm_worker(options: ClusterOptions) -> bool:
    """Run this node's workers until the command has ended, unless this process runs the command.

    In a Slurm allocation, srun starts the same command on every node: the first process runs it,
    and the others run workers for it. Call it in the main thread: SIGINT and SIGTERM end the
    workers, too, without an exception.

    Args:
        options: The options of the command.

    Returns:
        True if this process ran workers, so that the command is done; False if `--cluster` is no
        profile with `way: allocation`, or in the first process of the Slurm step.

    Raises:
        ClusterError: The profile or a certificate is invalid, this process belongs to no Slurm
            step, or the first process did not start a scheduler.
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
    supervisor.supervise(commands.worker_programs(config), report=_print_notice, done=ended)
    return True


class CommandCluster:
    """A context manager that holds a cluster and its client, and closes both at its end.

    A local cluster, and one that was started over ssh or with Slurm, ends with the block; a cluster
    that was running before goes on.
    """

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
        check_cluster_option(where)
        self._where = where
        self._certs = certs
        self._num_workers = workers
        """The number of worker processes of a local cluster, which `set_workers` changes."""
        self._workers_per_node = workers
        """The number of worker processes on each node of a Slurm allocation."""
        self._num_threads = threads
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
        """The client of the cluster, which is started at first use and has a worker from then on.

        Raises:
            ClusterError: The scheduler does not answer, no worker connects in time, or a worker
                runs other code.
            TesseraeError: The local workers failed to start.
        """
        if self._client is None:
            if self._where == "local":
                self._client = self._start()
            elif self._where.startswith(REMOTE_PREFIXES):
                self._client = self._start_remote()
            else:
                self._client = self._connect()
            wait_for(self._client, workers=1, timeout_seconds=WORKER_TIMEOUT_SECONDS)
            if self.is_remote:
                self._compare_versions(PACKAGES)
        return self._client

    @property
    def is_remote(self) -> bool:
        """True if the workers may run on other machines, which need not be like this one."""
        return self._where != "local"

    def connect_if_remote(self) -> None:
        """Connect now, unless the cluster is local, so that errors appear before any work begins.

        Raises:
            ClusterError: The scheduler does not answer, or a worker runs other code.
        """
        if self.is_remote:
            self.client  # noqa: B018 - reading the property connects and checks the versions

    def check_ranks(self, *, gpu: bool) -> None:
        """Check that workers have the code and the version of torch that ranks need.

        The workers that ranks may run on must have the code and the public version of torch of this
        process. The cluster is connected to if it is not yet. Nothing is checked or started for a
        local cluster. Differences that do no harm are printed as notices.

        Args:
            gpu: True if each rank needs a GPU: only workers with one are checked, if there are any.

        Raises:
            ClusterError: The cluster cannot be used, or a worker runs other code or another version
                of torch.
        """
        if self.is_remote:
            workers = workers_for_ranks(self.client, gpu=gpu)
            self._compare_versions((), must_match=("torch",), workers=workers)

    def _compare_versions(self, packages: Sequence[str], **options: Any) -> None:
        assert self._client is not None
        for difference in compare_versions(self._client, packages, code_digest.trees, **options):
            _print_notice(difference)

    def check_workers(self, work: ShardTaskConfig) -> None:
        """Let every worker of a non-local cluster check the store, the source and its pixels.

        The cluster is connected to if it is not yet. Nothing is checked for a local cluster, and a
        worker that does not answer is passed over. The error names the worker; of several, it is
        that of the worker with the first address.

        Args:
            work: The configuration of the tasks that the workers will run, with at least `store`
                (its URL), `split`, `run` and `sizes`; it is only read. The run must have begun and
                hold the lease of the split.

        Raises:
            StoreError: A worker sees another store, the run holds no lease, a worker produces other
                pixels, or it failed in another way.
            SourceError: A worker cannot read the source.
            ClusterError: The cluster cannot be used.
        """
        if not self.is_remote:
            return
        for worker, answer in sorted(broadcast(self.client, check_worker, work).items()):
            if isinstance(answer, TesseraeError):
                raise type(answer)(f"worker {worker}: {answer}")
            if isinstance(answer, NoResponseError):
                continue  # it is shutting down or hangs; its tasks will run on another worker
            if isinstance(answer, BaseException):
                raise StoreError(f"worker {worker} failed: {type(answer).__name__}: {answer}")

    def set_workers(self, workers: int, threads: int | None = None) -> None:
        """Set the number of worker processes of a local cluster, and that of their threads.

        It has no effect once the cluster has started, which the first use of `client` does.

        Args:
            workers: The number, at least 1. Clusters of other kinds ignore it, also the nodes of a
                Slurm allocation.
            threads: The number of threads of each worker (default: unchanged).
        """
        if self._backend is None:
            self._num_workers = workers
            self._num_threads = threads or self._num_threads

    @property
    def is_started(self) -> bool:
        """True once the cluster has started, after which its workers cannot be set."""
        return self._backend is not None

    def use_gpus(self, count: int | None) -> None:
        """Add a local worker for each GPU; it has no effect once `client` has started the cluster.

        Clusters of other kinds ignore it, because they have workers with GPUs of their own.

        Args:
            count: The number of GPUs of this machine to use, the first ones that
                CUDA_VISIBLE_DEVICES allows; None uses all, 0 none. If there are fewer, these are
                used.
        """
        if self._where == "local" and self._backend is None:
            self._gpus = commands.visible_gpus()[:count]

    def interrupt(self) -> None:
        """Raise KeyboardInterrupt in the other threads that call `maintain`, at their next call."""
        self._interrupted = True

    def maintain(self) -> None:
        """Replace workers that were lost, if this command started them; call it regularly.

        Raises:
            KeyboardInterrupt: `interrupt` was called, and this is not the main thread.
        """
        # Signals reach the main thread only; other threads learn of Ctrl-C here.
        if self._interrupted and threading.current_thread() is not threading.main_thread():
            raise KeyboardInterrupt
        if self._backend is not None:
            self._backend.maintain()

    def worker_memory(self) -> list[tuple[int, int]]:
        """Return the (memory limit in bytes, threads) of each worker that has a limit.

        A local cluster, whose workers are alike, gives a single pair and is not started for this.
        """
        if not self.is_remote:
            return [(self._local_memory_limit(), self._num_threads)]
        workers = self.client.scheduler_info(n_workers=-1)["workers"].values()
        return [(w["memory_limit"], w["nthreads"]) for w in workers if w["memory_limit"]]

    def _local_memory_limit(self) -> int:
        # The workers with a GPU need memory, too: the limits must not add up to more than there is.
        return limit_bytes() // (self._num_workers + len(self._gpus))

    def _start(self) -> Client:
        with deferred_signals():  # an interrupted start would leave processes that nothing closes
            try:
                local = LocalWorkers(
                    self._num_workers,
                    self._num_threads,
                    memory_limit=self._local_memory_limit(),
                    dashboard=self._dashboard,
                    preload=PRELOAD,
                    gpus=self._gpus,
                )
            except (RuntimeError, OSError) as e:
                raise TesseraeError(
                    f"the {self._num_workers} workers failed to start ({e.__cause__ or e}). Pass"
                    " fewer --workers, and run `tesserae doctor`."
                ) from e
            self._backend = self._stack.enter_context(local)
            client: Client = self._stack.enter_context(Client(local.cluster))
        self._print_dashboard(client, local.dashboard)
        return client

    def _start_remote(self) -> Client:
        with deferred_signals():
            backend = self._remote_backend()
            self._stack.push(backend)
            self._backend = backend
            client: Client = self._stack.enter_context(backend.client())
        self._print_dashboard(client, backend.dashboard)
        while not client.nthreads():  # a batch system may queue jobs for hours: no timeout
            backend.check_startup()
            backend.maintain()
            time.sleep(POLL_SECONDS)
        return client

    def _remote_backend(self) -> SshCluster | SlurmCluster | allocation.SlurmAllocation:
        kind, _, file = self._where.partition(":")
        if kind == "ssh":
            return SshCluster(
                read_hosts(Path(file)), dashboard=self._dashboard, report=_print_notice
            )
        profile = read_profile(Path(file))
        if profile.way == "allocation":
            return allocation.SlurmAllocation(
                profile,
                dashboard=self._dashboard,
                workers=self._workers_per_node,
                threads=self._num_threads,
            )
        return SlurmCluster(profile, dashboard=self._dashboard, report=_print_notice)

    def _connect(self) -> Client:
        folder = certificates.existing_folder(self._certs)
        client = self._stack.enter_context(
            connect(self._where, folder, timeout_seconds=CONNECT_SECONDS, report=_print_notice)
        )
        if self._dashboard:
            print(f"dashboard: `tesserae cluster status {self._where}` shows its URL", flush=True)
        return client

    def _print_dashboard(self, client: Client, status_url: str) -> None:
        """Print the URL of the Tesserae page, or of Dask's own page where that is missing."""
        if not self._dashboard:
            return
        has_page = False
        with suppress(Exception):  # a failing dashboard must not fail the run
            # Installed before its URL is printed: opened at once, it would otherwise not exist.
            has_page = client.run_on_scheduler(install_page)
        print(f"dashboard: {_tesserae_url(status_url) if has_page else status_url}", flush=True)

    def __enter__(self) -> CommandCluster:
        return self

    def __exit__(self, *error: Any) -> None:
        with deferred_signals():
            self._stack.__exit__(*error)


def check_cluster_option(where: str) -> None:
    """Check the value of `--cluster`; nothing is started or connected to.

    Args:
        where: `local`, the address of a scheduler, `ssh:FILE` or `slurm:FILE`.

    Raises:
        ClusterError: It is none of these, or the file is missing or invalid.
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


def _tesserae_url(status_url: str) -> str:
    """Return the URL of the Tesserae page, given the URL of Dask's own status page."""
    return f"{status_url.removesuffix('/status').rstrip('/')}/tesserae"


def _print_notice(line: str) -> None:
    print(f"notice: {line}", flush=True)
