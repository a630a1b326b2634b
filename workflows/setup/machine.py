"""Checks of this machine for `tesserae doctor`: GPUs, cores, memory, ports, limits, free space."""

from __future__ import annotations

import os
import re
import resource
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PORTS = {8786: "Dask's scheduler", 8787: "Dask's dashboard"}
SIZES = (72, 224, 288)
BYTES_PER_IMAGE = sum(size * size * 3 for size in SIZES)
MIN_IMAGES = 1000
WORKER_BYTES = 1_200_000_000
"""The memory that a worker may need with the default options."""
MIN_OPEN_FILES = 1024


@dataclass(frozen=True)
class Finding:
    """The result of one check, and a line of the doctor's table."""

    subject: str
    """The name of the check, such as `GPU`."""
    state: str
    """The severity: `ok`, `note` (missing, or could be better) or `broken`."""
    found: str
    """The observation, as text."""
    advice: str = ""
    """The suggestion what to do; empty if there is nothing to do."""


def check_gpu() -> Iterator[Finding]:
    """Yield the NVIDIA GPUs that the driver reports."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        yield Finding("GPU", "note", "none (no nvidia-smi)", "`tesserae prepare` needs no GPU.")
        return
    query = [tool, "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=20, check=False)
    except subprocess.TimeoutExpired:
        advice = "`tesserae prepare` needs no GPU."
        yield Finding("GPU", "note", "nvidia-smi does not answer", advice)
        return
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        advice = "nvidia-smi fails; `tesserae prepare` needs no GPU."
        yield Finding("GPU", "note", "none reported by the driver", advice)
    for line in lines if not done.returncode else []:
        yield Finding("GPU", "ok", line.strip())


def check_cores_and_memory() -> Iterator[Finding]:
    """Yield the number of cores and the memory that this process may use."""
    from cluster.limits import cores
    from pipeline.memory import limit_bytes

    workers, limit = cores(), limit_bytes()
    yield Finding("cores", "ok", f"{workers} of {os.cpu_count()} are available")
    each = limit / workers
    state = "ok" if each >= WORKER_BYTES else "note"
    fitting = max(1, int(limit // WORKER_BYTES))
    advice = "" if state == "ok" else f"Too little for one worker per core: pass WORKERS={fitting}."
    yield Finding("memory", state, f"{limit / 1e9:.1f} GB, {each / 1e9:.1f} GB per core", advice)


def check_ports() -> Iterator[Finding]:
    """Yield whether Dask's usual ports are free, and which Dask processes the network reaches."""
    busy = [port for port in PORTS if not is_free(port)]
    if busy:
        listed = " and ".join(f"{port} ({PORTS[port]})" for port in busy)
        advice = "Another cluster may be running. Other free ports are used instead."
        yield Finding("ports", "note", f"{listed} in use", advice)
    else:
        yield Finding("ports", "ok", "8786 and 8787 are free")
    for pid, port in public_dask_servers():
        advice = "Anyone who can reach it can run code as you. Start it with --host 127.0.0.1."
        summary = f"process {pid} is Dask and listens on port {port} of all interfaces"
        yield Finding("ports", "note", summary, advice)


def check_cluster(address: str, certs: str | None) -> Iterator[Finding]:
    """Yield the ports of a cluster's scheduler and workers, and whether other machines reach them.

    Args:
        address: The address of the scheduler, such as `tcp://node1:8786`.
        certs: The folder of certificates for a tls:// address; None for that of the environment
            variable `TESSERAE_CERTS`, or else the user's own.

    Yields:
        A finding for each listening port; only one, of the state `broken`, if the address is
        invalid or the cluster cannot be reached within 5 seconds. A port that other machines reach
        without authentication has the state `note`.
    """
    from cluster import certificates, ports
    from cluster.connect import connect
    from cluster.errors import ClusterError

    try:
        with connect(address, certificates.existing_folder(certs), timeout_seconds=5) as client:
            open_ports = ports.listening_ports(client)
    except ClusterError as e:
        yield Finding("cluster", "broken", f"{address} cannot be checked", str(e))
        return
    for port in open_ports:
        reach = "reachable from other machines" if port.is_public else "this machine only"
        summary = f"{port.host} {port.address}:{port.port}: {port.purpose}; {reach}"
        if port.is_public and not port.is_authenticated:
            advice = "It does not authenticate clients. Start the cluster with certificates."
            yield Finding("cluster", "note", summary, advice)
        else:
            yield Finding("cluster", "ok", summary)


def is_free(port: int) -> bool:
    """Return True if a server could listen on a port of the loopback address.

    Args:
        port: The port, 1 to 65,535, which is bound for a moment.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def public_dask_servers() -> Iterator[tuple[int, int]]:
    """Yield the (process id, port) of each Dask or Tesserae server on all interfaces."""
    import psutil

    try:
        sockets = psutil.net_connections(kind="inet")
    except psutil.AccessDenied:  # some systems show them to root only
        return
    for entry in sockets:
        if entry.status == psutil.CONN_LISTEN and entry.laddr and entry.pid is not None:
            host, port = entry.laddr
            if host in ("0.0.0.0", "::") and is_dask_process(entry.pid):
                yield entry.pid, port


def is_dask_process(pid: int) -> bool:
    """Return True if the command line of a process names Dask or Tesserae.

    Args:
        pid: The id of the process; one that has ended or cannot be inspected gives False.
    """
    import psutil

    try:
        arguments = psutil.Process(pid).cmdline()
    except psutil.Error:
        return False
    # The folders of a path are not evidence, so only its last component counts. Arguments with
    # spaces are code passed with -c, in which a / means nothing.
    command = " ".join(w if " " in w else w.rpartition("/")[2] for w in arguments)
    return re.search(r"\b(dask|distributed|tesserae)\b", command) is not None


def check_open_files() -> Iterator[Finding]:
    """Yield the number of files that a process may hold open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = soft == resource.RLIM_INFINITY
    enough = unlimited or soft >= MIN_OPEN_FILES
    advice = "" if enough else f"Run `ulimit -n {MIN_OPEN_FILES}` before the command."
    summary = "no limit" if unlimited else f"{soft} (hard limit {hard})"
    yield Finding("open files", "ok" if enough else "note", summary, advice)


def check_store_disk(store: str) -> Iterator[Finding]:
    """Yield findings about the disk of a store, and one about the folder of sockets, TMPDIR.

    Args:
        store: Path or URL of the store. If the folder does not exist yet, the nearest one above it
            is checked. Small temporary files are written to it and removed. A `~` at the start is
            expanded. A URL is not checked.

    Yields:
        Findings whose `subject` is `room` (free space), `fsync` (durable writes), `locks`, `new
        names` and `sockets`; only one about `room` for a URL or if the path is a file. Each has a
        `state` (`ok`, `note` or `broken`), what was `found`, and `advice` ('' for none).
    """
    from pipeline.urls import is_url

    if is_url(store):
        yield Finding("room", "ok", f"{store} is an object store: its free space is not checked")
        return
    folder = Path(store).expanduser().absolute()
    if folder.exists() and not folder.is_dir():
        yield Finding("room", "broken", f"{folder} is a file", "Pass a folder as STORE.")
        return
    while not folder.is_dir() and folder != folder.parent:
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    images = int(free // BYTES_PER_IMAGE)
    sizes = ", ".join(map(str, SIZES))
    summary = f"{free / 1e9:.1f} GB at {folder}: {images:,} images at {sizes} px"
    advice = "" if images >= MIN_IMAGES else "Free some space, or pass another STORE."
    yield Finding("room", "ok" if images >= MIN_IMAGES else "note", summary, advice)
    yield check_sync(folder)
    yield from check_filesystem(folder)
    yield check_sockets()


def check_sync(folder: Path) -> Finding:
    """Write and sync a small file in *folder* as a shard is written, then remove it.

    Args:
        folder: An existing folder.

    Returns:
        A finding with the duration; one of the state `broken` if the folder does not exist or
        cannot be written durably.
    """
    from pipeline.filesystem import advice_for, sync_folder

    began = time.perf_counter()
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".doctor-") as file:
            file.write(bytes(4096))
            file.flush()
            os.fsync(file.fileno())
            sync_folder(folder)
    except OSError as error:
        summary = f"cannot write durably at {folder}: {error.strerror or error}"
        advice = advice_for(error, "Pass a STORE on a disk that can be written to")
        return Finding("fsync", "broken", summary, f"{advice}.")
    return Finding(
        "fsync", "ok", f"a file and its folder synced in {time.perf_counter() - began:.3f} s"
    )


def check_filesystem(folder: Path) -> Iterator[Finding]:
    """Yield the system calls by which files in *folder* can be locked and created atomically.

    Args:
        folder: An existing folder, in which temporary files are created and removed.

    Yields:
        A finding about `locks` and one about `new names`, with the system call in `found`, of the
        state `broken` if that is not possible there, or `note` if only a weaker method is.
    """
    from pipeline.filesystem import advice_for, naming_method
    from pipeline.locks import locking_method

    advice = {
        "files created exclusively": "flock is not supported: after a run was killed on another"
        " machine, its split stays locked for two minutes. On Lustre, mount with -o flock.",
        "a rename under a lock": "Neither hard links nor renameat2 are supported: mount the file"
        " system with the same options on all machines.",
    }
    for subject, detect in (("locks", locking_method), ("new names", naming_method)):
        try:
            call = detect(folder)
        except OSError as error:
            summary = f"not possible at {folder}: {error.strerror or error}"
            yield Finding(subject, "broken", summary, f"{advice_for(error, 'Pass another STORE')}.")
        else:
            state = "note" if call in advice else "ok"
            yield Finding(subject, state, f"by {call}", advice.get(call, ""))


def check_sockets() -> Finding:
    """Return the folder of the sockets of a run's processes; a long TMPDIR cannot hold them."""
    from cluster.errors import ClusterError
    from cluster.sockets import find_socket_folder

    usual = tempfile.gettempdir()
    try:
        folder = find_socket_folder(usual)
    except ClusterError as error:
        return Finding("sockets", "broken", str(error), "Set TMPDIR to a short folder.")
    if str(folder) == usual:
        return Finding("sockets", "ok", f"in {folder}")
    return Finding("sockets", "ok", f"in {folder}: TMPDIR, {usual}, is too long for sockets")
