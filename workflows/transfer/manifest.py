"""The manifest of a pushed folder, and the digests of the files of a folder."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pipeline.confined import check_name
from pipeline.errors import StoreDamagedError, TesseraeError
from pipeline.filesystem import write_file
from pipeline.store import schema
from pipeline.store.layout import TEMPORARY
from pipeline.store.schema import Count, SchemaError, pattern

MANIFEST = "tesserae-manifest.json"
"""The name of the manifest at the URL, and of the copy that a download leaves in the folder."""
FORMAT = 1
DIGESTS = "digests.json"
"""The digests of the files of a folder, by length and time of change, in its folder `.tmp`."""
HASHING_THREADS = 4
"""The number of files that are read at once to compute their digests."""

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

    Temporary files (`.tmp`, and names that begin with a point and end in `.new`) and an earlier
    manifest are left out.

    Args:
        folder: The folder.

    Raises:
        TesseraeError: A file or folder is a link, or something else than a file.
    """
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        hidden = path.name.startswith(".") and path.name.endswith(".new")
        if name.split("/")[0] == TEMPORARY or hidden or name == MANIFEST:
            continue
        if path.is_symlink():
            raise TesseraeError(f"{path} is a link: only files of the folder itself are pushed.")
        if path.is_dir():
            continue
        if not path.is_file():
            raise TesseraeError(f"{path} is no file. Remove it, then push again.")
        yield name


def read_manifest_of(folder: Path, count: Callable[[], None]) -> Manifest:
    """Return the manifest of a folder, for which its files are read.

    A digest is computed once: it is kept in the folder, and used while length and time of change
    of the file stay the same.

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
    facts: dict[str, tuple[int, int, str]] = {}

    def digest(name: str) -> None:
        path = folder / name
        stat = path.stat()
        stamp = (stat.st_size, stat.st_mtime_ns)
        entry = known.get(name)
        sha256 = entry[2] if entry is not None and entry[:2] == stamp else file_sha256(path)
        now = path.stat()
        if (now.st_size, now.st_mtime_ns) != stamp:
            raise TesseraeError(
                f"{path} has changed while it was read. Push again when it is idle."
            )
        facts[name] = (*stamp, sha256)
        count()

    try:
        with ThreadPoolExecutor(HASHING_THREADS) as pool:
            list(pool.map(digest, names))
    finally:
        # Also after Ctrl-C: what is known need not be read again.
        with suppress(OSError):
            cache.parent.mkdir(exist_ok=True)
            write_file(cache, [json.dumps({**known, **facts}).encode()], durable=False)
    return {name: FileFacts(facts[name][0], facts[name][2]) for name in names}


def _read_cache(file: Path) -> dict[str, tuple[int, int, str]]:
    try:
        entries = json.loads(file.read_bytes())
        return {name: (int(a), int(b), str(c)) for name, (a, b, c) in entries.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal.

    Args:
        path: The path of the file.
    """
    with path.open("rb") as file:
        with suppress(OSError):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)
        return hashlib.file_digest(file, "sha256").hexdigest()
