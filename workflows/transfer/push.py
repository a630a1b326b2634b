"""The implementation of `tesserae push`."""

from __future__ import annotations

import hashlib
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from pipeline.errors import TesseraeError
from pipeline.filesystem import write_file
from pipeline.store.layout import TEMPORARY
from workflows.terminal.formatting import bytes_text, counted
from workflows.terminal.progress import Progress
from workflows.transfer.manifest import (
    MANIFEST,
    Manifest,
    decode_manifest,
    encode_manifest,
    files_of,
    read_manifest_of,
)
from workflows.transfer.options import PushOptions
from workflows.transfer.remote_folder import RemoteFolder, open_remote_folder

SAVE_EVERY = 32
"""The number of uploads after which the record of them is written."""


def run_push(options: PushOptions) -> int:
    """Copy the files of a folder to a URL, those first that are not there yet; print the result.

    Files that an earlier push of the same content has copied are not copied again. The manifest is
    written when all files are there, so that an incomplete copy cannot be pulled.

    Args:
        options: `folder`, `url` and `threads`.

    Returns:
        The exit status, 0.

    Raises:
        TesseraeError: The folder does not exist or has links, a file changes meanwhile, or the URL
            cannot be written.
        KeyboardInterrupt: Ctrl-C was pressed; files that were copied count for the next push.
        OSError: A file cannot be read.
    """
    folder = options.folder.expanduser().absolute()
    if not folder.is_dir():
        raise TesseraeError(f"{options.folder} is no folder.")
    remote = open_remote_folder(options.url)
    try:
        with Progress("digests", rows=sum(1 for _ in files_of(folder)), unit="files") as progress:
            files = read_manifest_of(folder, lambda: progress.update(rows=1))
        record = _Record(folder, remote)
        with ThreadPoolExecutor(options.threads) as pool:
            there = list(pool.map(lambda name: record.has(name, files), files))
        todo = [name for name, is_there in zip(files, there, strict=True) if not is_there]
        with Progress("push", rows=len(todo), unit="files") as progress:
            _upload(folder, remote, files, todo, record, progress, options.threads)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("Run the same command again to continue.") from None
    remote.write(MANIFEST, encode_manifest(files))
    total = sum(facts.num_bytes for facts in files.values())
    print(
        f"{options.url}: {counted(len(files), 'file')}, {bytes_text(total)}; {len(todo):,} of them"
        " were copied now.",
        flush=True,
    )
    return 0


def _upload(
    folder: Path,
    remote: RemoteFolder,
    files: Manifest,
    todo: list[str],
    record: _Record,
    progress: Progress,
    threads: int,
) -> None:
    stopped = threading.Event()

    def upload(names: tuple[str, ...]) -> None:
        if stopped.is_set():
            return
        before = {name: _stamp(folder / name) for name in names}
        remote.upload([(folder / name, name) for name in names])
        for name in names:
            if _stamp(folder / name) != before[name]:
                raise TesseraeError(f"{folder / name} has changed while it was copied. Push again.")
            record.add(name, files)
            progress.update(rows=1, bytes_out=files[name].num_bytes)

    batches = _batches(todo, remote.files_at_once)
    # Commits of one repository are made one after the other.
    with ThreadPoolExecutor(1 if remote.files_at_once > 1 else threads) as pool:
        try:
            list(pool.map(upload, batches))
        except BaseException:
            stopped.set()
            pool.shutdown(cancel_futures=True)
            raise
        finally:
            record.save()


def _stamp(path: Path) -> tuple[int, int]:
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns


def _batches(names: list[str], size: int) -> list[tuple[str, ...]]:
    return [tuple(names[start : start + size]) for start in range(0, len(names), size)]


class _Record:
    """What is known to be at the URL: by its manifest, or by a push from here that broke off."""

    def __init__(self, folder: Path, remote: RemoteFolder) -> None:
        name = hashlib.sha256(remote.url.encode()).hexdigest()[:16]
        self._file = folder / TEMPORARY / f"pushed-{name}.json"
        self._lock = threading.Lock()
        self._unsaved = 0
        self._digests: dict[str, str] = {}
        self._remote = remote
        data = remote.read(MANIFEST)
        if data is not None:
            there = decode_manifest(data, f"{remote.url}/{MANIFEST}")
            self._digests = {name: facts.sha256 for name, facts in there.items()}
        with suppress(OSError, ValueError, TypeError):
            self._digests |= dict(json.loads(self._file.read_bytes()))

    def has(self, name: str, files: Manifest) -> bool:
        """Return True if a file of this content was copied, and one of its length is there."""
        facts = files[name]
        if self._digests.get(name) != facts.sha256:
            return False
        return self._remote.num_bytes(name) == facts.num_bytes

    def add(self, name: str, files: Manifest) -> None:
        with self._lock:
            self._digests[name] = files[name].sha256
            self._unsaved += 1
            if self._unsaved >= SAVE_EVERY:
                self._save()

    def save(self) -> None:
        with self._lock:
            self._save()

    def _save(self) -> None:
        with suppress(OSError):  # without it, the next push copies more
            self._file.parent.mkdir(exist_ok=True)
            write_file(self._file, [json.dumps(self._digests).encode()], durable=False)
        self._unsaved = 0
