"""The implementation of `tesserae push`.

A push of new content first removes the manifest at the URL, and leaves a mark with its own random
identity there (`tesserae-push.json`). What it has copied is recorded here under that identity. So a
push that was broken off continues by its record only if no other push has begun there since.
"""

from __future__ import annotations

import hashlib
import json
import threading
import uuid
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from pipeline.errors import TesseraeError
from pipeline.filesystem import write_file
from pipeline.store.layout import TEMPORARY
from pipeline.urls import is_url
from workflows.terminal.formatting import bytes_text, counted
from workflows.terminal.progress import Progress
from workflows.transfer.manifest import (
    MANIFEST,
    Manifest,
    Stamp,
    check_unchanged,
    decode_manifest,
    encode_manifest,
    files_of,
    read_manifest_of,
)
from workflows.transfer.options import PushOptions
from workflows.transfer.remote_folder import RemoteFolder, open_remote_folder

MARK = "tesserae-push.json"
"""The file at the URL that says which push has begun there and is not complete."""
SAVE_EVERY = 32
"""The number of uploads after which the record of them is written."""


def run_push(options: PushOptions) -> int:
    """Copy the files of a folder to a URL that are not there yet, and print the result.

    The manifest is written when all files are there, so that an incomplete copy cannot be pulled.

    Args:
        options: `folder`, `url`, `again` (True copies all files) and `threads`.

    Returns:
        The exit status, 0.

    Raises:
        TesseraeError: The folder does not exist or has links, the URL lies in it or cannot be
            written, a file changes meanwhile, or another push has begun there.
        KeyboardInterrupt: Ctrl-C was pressed; files that were copied count for the next push.
        OSError: A file cannot be read.
    """
    folder = options.folder.expanduser().absolute()
    _check(folder, options)
    remote = open_remote_folder(options.url)
    try:
        with Progress("digests", rows=sum(1 for _ in files_of(folder)), unit="files") as progress:
            files, stamps = read_manifest_of(folder, lambda: progress.update(rows=1))
        record = _Record(folder, remote)
        todo = list(files)
        if not options.again:
            with ThreadPoolExecutor(options.threads) as pool:
                at_url = list(pool.map(lambda name: record.has(name, files), files))
            todo = [name for name, has_copy in zip(files, at_url, strict=True) if not has_copy]
        if todo or files != record.manifest:
            record.begin()
            with Progress("push", rows=len(todo), unit="files") as progress:
                _upload(folder, remote, files, stamps, todo, record, progress, options.threads)
            check_unchanged(folder, stamps)
            record.end(files)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("Run the same command again to continue.") from None
    total = sum(facts.num_bytes for facts in files.values())
    print(
        f"{options.url}: {counted(len(files), 'file')}, {bytes_text(total)}; {len(todo):,} of them"
        " were copied now.",
        flush=True,
    )
    return 0


def _check(folder: Path, options: PushOptions) -> None:
    if not folder.is_dir():
        raise TesseraeError(f"{options.folder} is no folder.")
    if not is_url(options.url) or options.url.startswith("file://"):
        target = Path(options.url.removeprefix("file://")).expanduser().resolve()
        if target.is_relative_to(folder.resolve()):
            raise TesseraeError(
                f"{options.url} lies in {options.folder}: a folder cannot be copied into itself."
            )


def _upload(
    folder: Path,
    remote: RemoteFolder,
    files: Manifest,
    stamps: Mapping[str, Stamp],
    todo: list[str],
    record: _Record,
    progress: Progress,
    threads: int,
) -> None:
    stopped = threading.Event()

    def upload(names: tuple[str, ...]) -> None:
        if stopped.is_set():
            return
        remote.upload([(folder / name, name) for name in names])
        check_unchanged(folder, {name: stamps[name] for name in names})
        for name in names:
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


def _batches(names: list[str], size: int) -> list[tuple[str, ...]]:
    return [tuple(names[start : start + size]) for start in range(0, len(names), size)]


class _Record:
    """What is known to be at the URL: by its manifest, or by a push from here that broke off."""

    def __init__(self, folder: Path, remote: RemoteFolder) -> None:
        name = hashlib.sha256(remote.url.encode()).hexdigest()[:16]
        self._file = folder / TEMPORARY / f"pushed-{name}.json"
        self._remote = remote
        self._lock = threading.Lock()
        self._unsaved = 0
        self._identity = ""
        self._digests: dict[str, str] = {}
        self.manifest: Manifest | None = None
        """The manifest at the URL; None if there is none, or none that can be read."""
        data = remote.read(MANIFEST)
        if data is not None:
            with suppress(TesseraeError):  # what cannot be read cannot be pulled either
                self.manifest = decode_manifest(data, remote.url)
        if self.manifest is not None:
            self._digests = {name: facts.sha256 for name, facts in self.manifest.items()}
        else:
            self._continue()

    def _continue(self) -> None:
        """Read what a push from here has copied, if no other one has begun there since."""
        with suppress(OSError, ValueError, TypeError, KeyError):
            stored = json.loads(self._file.read_bytes())
            if stored["identity"] == self._mark():
                self._identity, self._digests = stored["identity"], dict(stored["digests"])

    def _mark(self) -> str | None:
        data = self._remote.read(MARK)
        with suppress(ValueError, TypeError, KeyError):
            return None if data is None else str(json.loads(data)["identity"])
        return None

    def has(self, name: str, files: Manifest) -> bool:
        """Return True if a file of this content was copied, and one of its length is there."""
        facts = files[name]
        if self._digests.get(name) != facts.sha256:
            return False
        return self._remote.num_bytes(name) == facts.num_bytes

    def begin(self) -> None:
        """Mark the URL as incomplete, unless the push that is continued has done so."""
        if self._identity:
            return
        self._identity = uuid.uuid4().hex
        self._remote.write(MARK, json.dumps({"identity": self._identity}).encode())
        self._remote.remove(MANIFEST)
        self.save()

    def end(self, files: Manifest) -> None:
        """Write the manifest, if no other push has begun meanwhile."""
        if self._mark() != self._identity:
            raise TesseraeError(
                f"another push to {self._remote.url} has begun meanwhile. Push again when it has"
                " ended."
            )
        self._remote.write(MANIFEST, encode_manifest(files))
        self._remote.remove(MARK)
        self._file.unlink(missing_ok=True)

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
            stored = {"identity": self._identity, "digests": self._digests}
            write_file(self._file, [json.dumps(stored).encode()], durable=False)
        self._unsaved = 0
