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
from workflows.transfer.remote_folder import RemoteFolder

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
    remote = RemoteFolder(options.url)
    try:
        with Progress("digests", rows=sum(1 for _ in files_of(folder)), unit="files") as progress:
            files = read_manifest_of(folder, lambda: progress.update(rows=1))
        record = _Record(folder, remote)
        todo = [name for name in files if not record.has(name, files)]
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

    def upload(name: str) -> None:
        if stopped.is_set():
            return
        path = folder / name
        before = path.stat()
        remote.upload(path, name)
        after = path.stat()
        if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
            raise TesseraeError(f"{path} has changed while it was copied. Push again.")
        record.add(name, files)
        progress.update(rows=1, bytes_out=before.st_size)

    with ThreadPoolExecutor(threads) as pool:
        try:
            list(pool.map(upload, todo))
        except BaseException:
            stopped.set()
            pool.shutdown(cancel_futures=True)
            raise
        finally:
            record.save()


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
