"""The implementation of `tesserae pull`."""

from __future__ import annotations

import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pipeline.confined import confined_path
from pipeline.errors import TesseraeError
from pipeline.filesystem import write_file
from workflows.terminal.formatting import bytes_text, counted
from workflows.terminal.progress import Progress
from workflows.transfer.manifest import (
    MANIFEST,
    FileFacts,
    decode_manifest,
    encode_manifest,
    file_sha256,
)
from workflows.transfer.options import PullOptions
from workflows.transfer.remote_folder import RemoteFolder, open_remote_folder

ATTEMPTS = 2
"""The number of times that a file is downloaded whose digest is wrong."""


def run_pull(options: PullOptions) -> int:
    """Copy a pushed folder from a URL, and compare every file with its digest; print the result.

    Files that are there with the right digest are kept, so the same command continues. A file
    appears under its name when its digest is right.

    Args:
        options: `url`, `folder` and `threads`.

    Returns:
        The exit status, 0.

    Raises:
        TesseraeError: There is no manifest at the URL, a file is missing or has another digest, the
            disk has too little space, or the folder has other files of the same names that are no
            files.
        KeyboardInterrupt: Ctrl-C was pressed; files that are complete are kept.
        OSError: A file cannot be written.
    """
    remote = open_remote_folder(options.url)
    data = remote.read(MANIFEST)
    if data is None:
        raise TesseraeError(
            f"{options.url} has no {MANIFEST}: nothing was pushed there, or the push is not"
            " complete."
        )
    files = decode_manifest(data, f"{options.url}/{MANIFEST}")
    folder = options.folder.expanduser().absolute()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with Progress("check", rows=len(files), unit="files") as progress:
            todo = _missing(folder, files, progress, options.threads)
        _check_space(folder, todo)
        with Progress("pull", rows=len(todo), unit="files") as progress:
            _download_all(folder, remote, todo, progress, options.threads)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("Run the same command again to continue.") from None
    write_file(folder / MANIFEST, [encode_manifest(files)], durable=True)
    total = sum(facts.num_bytes for facts in files.values())
    print(
        f"{options.folder}: {counted(len(files), 'file')}, {bytes_text(total)}, all with their"
        f" digests; {len(todo):,} of them were copied now.",
        flush=True,
    )
    return 0


def _missing(
    folder: Path, files: dict[str, FileFacts], progress: Progress, threads: int
) -> dict[str, FileFacts]:
    """Return the files that the folder lacks, or has with another length or digest."""

    def is_lacking(name: str) -> bool:
        path = confined_path(folder, name)
        facts = files[name]
        here = path.is_file() and path.stat().st_size == facts.num_bytes
        lacks = not here or file_sha256(path) != facts.sha256
        progress.update(rows=1)
        return lacks

    with ThreadPoolExecutor(threads) as pool:
        lacking = list(pool.map(is_lacking, files))
    return {
        name: files[name] for name, is_lacking in zip(files, lacking, strict=True) if is_lacking
    }


def _check_space(folder: Path, todo: dict[str, FileFacts]) -> None:
    needed = sum(facts.num_bytes for facts in todo.values())
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise TesseraeError(
            f"{folder} needs {bytes_text(needed)}, and {bytes_text(free)} are free. Free some"
            " space."
        )


def _download_all(
    folder: Path,
    remote: RemoteFolder,
    todo: dict[str, FileFacts],
    progress: Progress,
    threads: int,
) -> None:
    stopped = threading.Event()

    def download(name: str) -> None:
        if not stopped.is_set():
            _download(confined_path(folder, name), remote, name, todo[name])
            progress.update(rows=1, bytes_out=todo[name].num_bytes)

    with ThreadPoolExecutor(threads) as pool:
        try:
            list(pool.map(download, todo))
        except BaseException:
            stopped.set()
            pool.shutdown(cancel_futures=True)
            raise


def _download(path: Path, remote: RemoteFolder, name: str, facts: FileFacts) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.pull.new")
    try:
        for attempt in range(ATTEMPTS):
            remote.download(name, part)
            found = FileFacts(part.stat().st_size, file_sha256(part))
            if found == facts:
                part.replace(path)
                return
            if attempt + 1 == ATTEMPTS:
                raise TesseraeError(
                    f"{name} of {remote.url} has {found.num_bytes:,} bytes and the digest"
                    f" {found.sha256[:16]}: expected {facts.num_bytes:,} and {facts.sha256[:16]}."
                    " Push the folder again."
                )
    finally:
        part.unlink(missing_ok=True)
