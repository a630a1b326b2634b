"""The implementation of `tesserae pull`."""

from __future__ import annotations

import json
import shutil
import threading
import uuid
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

from pipeline.confined import confined_path
from pipeline.errors import TesseraeError
from pipeline.filesystem import UNFINISHED, write_file
from pipeline.store.layout import TEMPORARY
from pipeline.store.lease import lease
from pipeline.store.local import LocalObjects
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

ORIGIN = f"{TEMPORARY}/pulled-from.json"
"""The record of the URL that a folder is pulled from, with which files may be replaced."""
ATTEMPTS = 2
"""The number of times that a file is downloaded whose digest is wrong."""


def run_pull(options: PullOptions) -> int:
    """Copy a pushed folder from a URL, and compare every file with its digest; print the result.

    Files that are there with the right digest are kept, so the same command continues. A file
    appears under its name when its digest is right. It replaces one with another digest only in a
    folder that was pulled from this URL.

    Args:
        options: `url`, `folder` and `threads`.

    Returns:
        The exit status, 0.

    Raises:
        TesseraeError: There is no manifest at the URL, a file is missing or has another digest, the
            disk has too little space, the folder has something else under one of the names, or
            another pull is writing it.
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
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as e:
        raise TesseraeError(f"{options.folder} is no folder.") from e
    with _only_writer(options.folder, folder):
        try:
            with Progress("check", rows=len(files), unit="files") as progress:
                todo = _missing(folder, files, progress, options.threads)
            if _is_pulled_from(folder, options.url):
                _remove_unfinished(folder, files)
            else:
                _check_free(options.folder, folder, todo)
            _check_space(folder, todo)
            write_file(folder / ORIGIN, [json.dumps({"url": options.url}).encode()], durable=True)
            with Progress("pull", rows=len(todo), unit="files") as progress:
                _download_all(folder, remote, todo, progress, options.threads)
        except KeyboardInterrupt:
            raise KeyboardInterrupt("Run the same command again to continue.") from None
        stale = _stale_files(folder, files)
        write_file(folder / MANIFEST, [encode_manifest(files)], durable=True)
    total = sum(facts.num_bytes for facts in files.values())
    print(
        f"{options.folder}: {counted(len(files), 'file')}, {bytes_text(total)}, all with their"
        f" digests; {len(todo):,} of them were copied now.",
        flush=True,
    )
    if stale:
        print(
            f"notice: {options.folder} still has {counted(len(stale), 'file')} of an earlier pull"
            f" that {options.url} has no more, such as {stale[0]}. Remove what you do not need.",
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
        same_length = path.is_file() and path.stat().st_size == facts.num_bytes
        lacks = not same_length or file_sha256(path) != facts.sha256
        progress.update(rows=1)
        return lacks

    with ThreadPoolExecutor(threads) as pool:
        lacking = list(pool.map(is_lacking, files))
    return {
        name: files[name] for name, is_lacking in zip(files, lacking, strict=True) if is_lacking
    }


@contextmanager
def _only_writer(given: Path, folder: Path) -> Iterator[None]:
    def refuse(holder: str) -> NoReturn:
        raise TesseraeError(f"{given} is being written by {holder}. Wait for it to end.")

    with lease(LocalObjects(str(folder), "pull"), "pull", wait=True, on_wait=refuse):
        yield


def _is_pulled_from(folder: Path, url: str) -> bool:
    """Return True if an earlier pull from a URL has written to a folder, complete or not."""
    try:
        return bool(json.loads((folder / ORIGIN).read_bytes())["url"] == url)
    except FileNotFoundError:
        return (folder / MANIFEST).is_file()  # pulled by a version that did not record the URL
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _remove_unfinished(folder: Path, files: Iterable[str]) -> None:
    """Remove what a pull that was killed had begun to write, and nothing else."""
    for parent in {(folder / name).parent for name in files}:
        for path in parent.iterdir() if parent.is_dir() else ():
            if UNFINISHED.fullmatch(path.name):
                path.unlink(missing_ok=True)


def _check_free(given: Path, folder: Path, todo: dict[str, FileFacts]) -> None:
    """Refuse a folder whose files, which may be those of another store, would be replaced."""
    for name in todo:
        path = confined_path(folder, name)
        if path.is_file() or path.is_symlink():
            raise TesseraeError(
                f"{given} was not pulled from there, and has another {name}. Pull into an empty"
                " folder, or remove that file."
            )


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
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as e:
        raise TesseraeError(f"{path.parent} is no folder: {name} cannot be written.") from e
    if path.is_dir() and not path.is_symlink():
        raise TesseraeError(f"{path} is a folder, where a file is to be. Remove it.")
    # A name that nobody can have made a link of before.
    part = path.with_name(f".{path.name[:100]}.{uuid.uuid4().hex[:12]}.new")
    try:
        for attempt in range(ATTEMPTS):
            remote.download(name, part)
            received = FileFacts(part.stat().st_size, file_sha256(part))
            if received == facts:
                part.replace(path)
                return
            if attempt + 1 == ATTEMPTS:
                raise TesseraeError(
                    f"{name} of {remote.url} has {received.num_bytes:,} bytes and the digest"
                    f" {received.sha256[:16]}: expected {facts.num_bytes:,} and"
                    f" {facts.sha256[:16]}. Push the folder once more, with --again."
                )
    finally:
        part.unlink(missing_ok=True)


def _stale_files(folder: Path, files: dict[str, FileFacts]) -> list[str]:
    """Return the files of an earlier pull that are still there and are not pushed any more."""
    with suppress(OSError, TesseraeError):
        earlier = decode_manifest((folder / MANIFEST).read_bytes(), str(folder))
        return [name for name in earlier if name not in files and (folder / name).is_file()]
    return []
