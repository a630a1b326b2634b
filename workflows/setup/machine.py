"""What this machine gives: GPUs, cores, memory, ports, open files, room. For `tesserae doctor`."""

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
IMAGES_AT_LEAST = 1000
WORKER_BYTES = 1_200_000_000
"""What a worker may come to at the defaults."""
FILES_AT_LEAST = 1024


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's table."""

    subject: str
    state: str
    """`ok`, `note` (works, but could be better, or is not there) or `broken`."""
    found: str
    advice: str = ""


def gpu_found() -> Iterator[Finding]:
    """Say which NVIDIA GPUs the driver shows."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        yield Finding("GPU", "note", "none (no nvidia-smi)", "Preparing needs none.")
        return
    query = [tool, "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=20, check=False)
    except subprocess.TimeoutExpired:
        yield Finding("GPU", "note", "nvidia-smi does not answer", "Preparing needs no GPU.")
        return
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        advice = "nvidia-smi fails; preparing needs no GPU."
        yield Finding("GPU", "note", "none that the driver shows", advice)
    for line in lines if not done.returncode else []:
        yield Finding("GPU", "ok", line.strip())


def machine_found() -> Iterator[Finding]:
    """Say how many cores and how much memory this process may use."""
    from cluster.cores import cores
    from pipeline.memory import limit_bytes

    workers, limit = cores(), limit_bytes()
    yield Finding("cores", "ok", f"{workers} of {os.cpu_count()} may be used")
    each = limit / workers
    state = "ok" if each >= WORKER_BYTES else "note"
    fitting = max(1, int(limit // WORKER_BYTES))
    advice = "" if state == "ok" else f"Too little for one worker a core: WORKERS={fitting}."
    yield Finding("memory", state, f"{limit / 1e9:.1f} GB, {each / 1e9:.1f} GB a core", advice)


def ports_found() -> Iterator[Finding]:
    """Say whether Dask's usual ports are free, and whether Dask is open to the network."""
    taken = [port for port in PORTS if not is_free(port)]
    if taken:
        named = " and ".join(f"{port} ({PORTS[port]})" for port in taken)
        advice = "Another cluster may be running. Free ports are taken instead."
        yield Finding("ports", "note", f"{named} in use", advice)
    else:
        yield Finding("ports", "ok", "8786 and 8787 are free")
    for pid, port in open_to_all():
        advice = "Whoever reaches it can run code as you. Start it with --host 127.0.0.1."
        found = f"process {pid} is Dask and listens on port {port} of all interfaces"
        yield Finding("ports", "note", found, advice)


def cluster_found(address: str, certs: str | None) -> Iterator[Finding]:
    """Say what scheduler and workers of a cluster listen on, and which of it others reach."""
    from cluster import certificates, ports
    from cluster.connect import connect
    from cluster.errors import ClusterError

    try:
        with connect(address, certificates.folder(certs), seconds=5) as client:
            found = ports.listening(client)
    except ClusterError as e:
        yield Finding("cluster", "broken", f"{address} cannot be looked at", str(e))
        return
    for port in found:
        reach = "reached from elsewhere" if port.open else "this machine only"
        what = f"{port.host} {port.address}:{port.port}: {port.why}; {reach}"
        if port.open and not port.safe:
            advice = "It asks nobody who they are. Start the cluster with certificates."
            yield Finding("cluster", "note", what, advice)
        else:
            yield Finding("cluster", "ok", what)


def is_free(port: int) -> bool:
    """Say whether a server could listen on *port* of the loopback address."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def open_to_all() -> Iterator[tuple[int, int]]:
    """Yield (process, port) of every Dask or Tesserae that listens on all interfaces."""
    import psutil

    try:
        sockets = psutil.net_connections(kind="inet")
    except psutil.AccessDenied:  # some systems show them to root only
        return
    for entry in sockets:
        if entry.status == psutil.CONN_LISTEN and entry.laddr and entry.pid is not None:
            host, port = entry.laddr
            if host in ("0.0.0.0", "::") and is_ours(entry.pid):
                yield entry.pid, port


def is_ours(pid: int) -> bool:
    """Say whether a process was started as Dask or as Tesserae."""
    import psutil

    try:
        words = psutil.Process(pid).cmdline()
    except psutil.Error:
        return False
    # A folder that something lies in says nothing; code may have a / anywhere.
    said = " ".join(w if " " in w else w.rpartition("/")[2] for w in words)
    return re.search(r"\b(dask|distributed|tesserae)\b", said) is not None


def files_found() -> Iterator[Finding]:
    """Say how many files a process may hold open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = soft == resource.RLIM_INFINITY
    enough = unlimited or soft >= FILES_AT_LEAST
    advice = "" if enough else f"Say `ulimit -n {FILES_AT_LEAST}` before the command."
    found = "no limit" if unlimited else f"{soft} (hard limit {hard})"
    yield Finding("open files", "ok" if enough else "note", found, advice)


def room_found(store: str) -> Iterator[Finding]:
    """Say how many images fit where the store is, and whether what is written there stays."""
    from pipeline.urls import is_url

    if is_url(store):
        yield Finding("room", "ok", f"{store} is an object store: its room is not asked for")
        return
    folder = Path(store).expanduser().absolute()
    if folder.exists() and not folder.is_dir():
        yield Finding("room", "broken", f"{folder} is a file", "Name a folder as STORE.")
        return
    while not folder.is_dir() and folder != folder.parent:
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    images = int(free // BYTES_PER_IMAGE)
    found = f"{free / 1e9:.1f} GB at {folder}: {images:,} images at {', '.join(map(str, SIZES))} px"
    advice = "" if images >= IMAGES_AT_LEAST else "Make room, or name another STORE."
    yield Finding("room", "ok" if images >= IMAGES_AT_LEAST else "note", found, advice)
    yield sync_found(folder)
    yield from filesystem_found(folder)
    yield sockets_found()


def sync_found(folder: Path) -> Finding:
    """Write a small file in *folder*, make it durable as a shard is made, and remove it."""
    from pipeline.filesystem import cure, sync_folder

    began = time.perf_counter()
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".doctor-") as file:
            file.write(bytes(4096))
            file.flush()
            os.fsync(file.fileno())
            sync_folder(folder)
    except OSError as error:
        found = f"cannot write durably at {folder}: {error.strerror or error}"
        advice = cure(error, "Name a STORE on a disk that can be written to")
        return Finding("fsync", "broken", found, f"{advice}.")
    return Finding("fsync", "ok", f"a file and its folder in {time.perf_counter() - began:.3f} s")


def filesystem_found(folder: Path) -> Iterator[Finding]:
    """Lock and name files in *folder* as a store's are; say by which calls that is done."""
    from pipeline.filesystem import cure, locking_way, naming_way

    advice = {
        "files created exclusively": "There is no flock here: a run that was killed on another"
        " machine holds its split for two minutes. On Lustre, mount with -o flock.",
        "a rename under a lock": "There are neither hard links nor renameat2 here: mount it alike"
        " on all machines.",
    }
    for subject, way_of in (("locks", locking_way), ("new names", naming_way)):
        try:
            way = way_of(folder)
        except OSError as error:
            found = f"cannot be had at {folder}: {error.strerror or error}"
            yield Finding(subject, "broken", found, f"{cure(error, 'Name another STORE')}.")
        else:
            state = "note" if way in advice else "ok"
            yield Finding(subject, state, f"by {way}", advice.get(way, ""))


def sockets_found() -> Finding:
    """Say where the sockets of a run's processes are: not every TMPDIR is short enough."""
    from cluster.errors import ClusterError
    from cluster.sockets import find_socket_folder

    usual = tempfile.gettempdir()
    try:
        folder = find_socket_folder(usual)
    except ClusterError as error:
        return Finding("sockets", "broken", str(error), "Set TMPDIR to a short folder.")
    if str(folder) == usual:
        return Finding("sockets", "ok", f"in {folder}")
    return Finding("sockets", "ok", f"in {folder}: TMPDIR, {usual}, is too long for them")
