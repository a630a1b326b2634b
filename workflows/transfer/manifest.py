"""The manifest of a pushed folder, and the digests of the files of a folder."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pipeline.confined import check_name
from pipeline.errors import StoreDamagedError, TesseraeError
from pipeline.filesystem import UNFINISHED, write_file
from pipeline.store import schema
from pipeline.store.layout import CACHE, TEMPORARY
from pipeline.store.schema import Count, SchemaError, pattern

MANIFEST = "tesserae-manifest.json"
"""The name of the manifest at the URL, and of the copy that a download leaves in the folder."""
FORMAT = 1
DIGESTS = "digests.json"
"""The digests of the files of a folder, by length and time of change, in its folder `.tmp`."""
HASHING_THREADS = 4
"""The number of files that are read at once to compute their digests."""

Stamp = tuple[int, int, int, int]
"""The length of a file, its times of change in ns (of content, and of any kind), and its inode."""

Sha256 = Annotated[str, pattern(r"[0-9a-f]{64}", "64 hexadecimal digits")]


class FileFacts(NamedTuple):
    """The length and the digest of a file."""

    num_bytes: int
    sha256: str


Manifest = dict[str, FileFacts]
"""The files of a folder by name, relative to it and with `/`, in the order of names."""


def encode_manifest(files: Manifest) -> bytes:
    """Return the bytes of a manifest.

    Args:
        files: The files by name.
    """
    entries = {
        name: {"bytes": files[name].num_bytes, "sha256": files[name].sha256}
        for name in sorted(files)
    }
    return json.dumps({"format": FORMAT, "files": entries}, indent=0).encode()


def decode_manifest(data: bytes, where: str) -> Manifest:
    """Return the files of a manifest.

    Args:
        data: The bytes of the manifest.
        where: Its URL, for messages.

    Raises:
        TesseraeError: It is damaged, of a later version, or names a file outside of the folder.
    """
    try:
        document = schema.check(dict[str, Any], json.loads(data), "it")
        if document.get("format") != FORMAT:
            raise SchemaError(f"format is {document.get('format')!r}: expected {FORMAT}")
        files = {}
        for name, entry in schema.check(dict[str, Any], document.get("files"), "files").items():
            facts = schema.check(dict[str, Any], entry, name)
            num_bytes = schema.check(Count, facts.get("bytes"), f"{name}.bytes")
            digest = schema.check(Sha256, facts.get("sha256"), f"{name}.sha256")
            files[check_name(name)] = FileFacts(num_bytes, digest)
    except (ValueError, RecursionError, StoreDamagedError) as e:
        raise TesseraeError(
            f"{where} is no manifest: {str(e)[:200]}. Push the folder again."
        ) from e
    return files


def files_of(folder: Path) -> Iterator[str]:
    """Yield the names of the files of a folder that are pushed, relative to it and with `/`.

    What can be made again (`.cache` of the folder), what is being written (`.tmp` in any folder,
    and names such as `.file.0123456789ab.new`) and an earlier manifest are left out.

    Args:
        folder: The folder.

    Raises:
        TesseraeError: A file or folder is a link, something else than a file, or has a name that
            not every file system has.
        OSError: A folder cannot be read.
    """

    def refuse(error: OSError) -> None:
        raise error

    for root, folders, files in os.walk(folder, onerror=refuse):
        for entry in sorted([*folders, *files]):
            path = Path(root, entry)
            name = path.relative_to(folder).as_posix()
            if entry == TEMPORARY or name in (CACHE, MANIFEST) or UNFINISHED.fullmatch(entry):
                continue
            _check_entry(folder, path, name)
            if path.is_file():
                yield name
        left_out = {TEMPORARY, CACHE} if Path(root) == folder else {TEMPORARY}
        folders[:] = sorted({*folders} - left_out)


def _check_entry(folder: Path, path: Path, name: str) -> None:
    if path.is_symlink():
        raise TesseraeError(f"{path} is a link: only files of the folder itself are pushed.")
    if not path.is_file() and not path.is_dir():
        raise TesseraeError(f"{path} is no file. Remove it, then push again.")
    try:
        check_name(name)
    except StoreDamagedError as e:
        raise TesseraeError(f"{folder} cannot be pushed: {e}") from e


def stamp_of(path: Path) -> Stamp:
    """Return what changes whenever a file is written or replaced.

    Args:
        path: The path of the file.
    """
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino


def check_unchanged(folder: Path, stamps: Mapping[str, Stamp]) -> None:
    """Raise an error if a file is not what its digest was computed of.

    Args:
        folder: The folder.
        stamps: The stamps of files by name, from `read_manifest_of`.

    Raises:
        TesseraeError: A file has changed, or is gone.
    """
    for name, stamp in stamps.items():
        try:
            same = stamp_of(folder / name) == stamp
        except FileNotFoundError:
            same = False
        if not same:
            raise TesseraeError(f"{folder / name} has changed during the push. Push again.")


def read_manifest_of(folder: Path, count: Callable[[], None]) -> tuple[Manifest, dict[str, Stamp]]:
    """Return the manifest of a folder, for which its files are read, and the stamps of the files.

    A digest is computed once: it is kept in the folder, and used while the stamp of the file stays
    the same.

    Args:
        folder: The folder.
        count: A function that is called after each file.

    Raises:
        TesseraeError: The folder has a link or no file at all, or a file has changed meanwhile.
        OSError: A file cannot be read.
    """
    cache = folder / TEMPORARY / DIGESTS
    known = _read_cache(cache)
    names = list(files_of(folder))
    if not names:
        raise TesseraeError(f"{folder} has no files.")
    digests: dict[str, tuple[Stamp, str]] = {}

    def digest(name: str) -> None:
        stamp = stamp_of(folder / name)
        entry = known.get(name)
        known_digest = entry[1] if entry is not None and entry[0] == stamp else None
        sha256 = known_digest or file_sha256(folder / name)
        check_unchanged(folder, {name: stamp})
        digests[name] = (stamp, sha256)
        count()

    try:
        with ThreadPoolExecutor(HASHING_THREADS) as pool:
            list(pool.map(digest, names))
    finally:
        # Also after Ctrl-C: what is known need not be read again.
        with suppress(OSError):
            cache.parent.mkdir(exist_ok=True)
            write_file(cache, [json.dumps({**known, **digests}).encode()], durable=False)
    stamps = {name: digests[name][0] for name in names}
    return {name: FileFacts(stamps[name][0], digests[name][1]) for name in names}, stamps


def _read_cache(file: Path) -> dict[str, tuple[Stamp, str]]:
    try:
        entries = json.loads(file.read_bytes())
        return {name: (_stamp(stamp), str(digest)) for name, (stamp, digest) in entries.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _stamp(values: Sequence[int]) -> Stamp:
    size, modified, changed, inode = map(int, values)
    return size, modified, changed, inode


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal.

    Args:
        path: The path of the file.
    """
    with path.open("rb") as file:
        with suppress(OSError):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)
        return hashlib.file_digest(file, "sha256").hexdigest()
