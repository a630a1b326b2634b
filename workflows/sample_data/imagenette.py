"""Fetch Imagenette, the small public subset of ImageNet, for `DATA=imagenette`.

    <directory>/imagenette2-320.tgz.part     what has come so far; a later run goes on from there
    <directory>/imagenette2-320/{train,val}/<wnid>/*.JPEG     there = whole, checked and unpacked

10 classes, 9,469 train and 3,925 val photographs, scaled so that the shorter side is 320 px:
342 MB to fetch, as much again when unpacked.
"""

from __future__ import annotations

import hashlib
import http.client
import platform
import shutil
import tarfile
import tempfile
import urllib.error
import urllib.request
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import SourceError
from workflows.terminal.formatting import bytes_text
from workflows.terminal.progress import Progress

TIMEOUT_SECONDS = 30.0
"""Without a byte."""
BLOCK_BYTES = 1 << 18
REQUESTED_RANGE_IS_EMPTY = 416


@dataclass(frozen=True)
class Archive:
    """A public archive of class folders."""

    url: str
    md5: str
    folder: str
    """The one folder inside."""
    words: dict[str, str]
    """wnid -> words, which the archive does not carry."""


ARCHIVES = {
    "imagenette": Archive(
        url="https://s3.amazonaws.com/fast-ai-imageclas/imagenette2-320.tgz",
        md5="3df6f0d01a2c9592104656642f5e78a3",
        folder="imagenette2-320",
        words={
            "n01440764": "tench, Tinca tinca",
            "n02102040": "English springer, English springer spaniel",
            "n02979186": "cassette player",
            "n03000684": "chain saw, chainsaw",
            "n03028079": "church, church building",
            "n03394916": "French horn, horn",
            "n03417042": "garbage truck, dustcart",
            "n03425413": "gas pump, gasoline pump, petrol pump, island dispenser",
            "n03445777": "golf ball",
            "n03888257": "parachute, chute",
        },
    )
}


def fetch(name: str, directory: Path, *, url: str | None = None, md5: str | None = None) -> Path:
    """Fetch, check and unpack an archive, unless that was done before.

    Args:
        name: One of `ARCHIVES`.
        directory: Where archives are kept; made if need be.
        url: Of a copy of the archive; None = the public one.
        md5: Of that copy, in hexadecimal.

    Returns:
        The folder that holds `train` and `val`.

    Raises:
        SourceError: No such archive, no network, no room, or not the bytes that were expected.
    """
    if name not in ARCHIVES:
        raise SourceError(f"no archive is called {name!r}: expected one of {', '.join(ARCHIVES)}.")
    archive = ARCHIVES[name]
    folder = directory / archive.folder
    if folder.is_dir():
        return folder
    url = archive.url if url is None else url
    part = directory / f"{archive.folder}.tgz.part"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        _download(name, url, part)
        _check(part, archive.md5 if md5 is None else md5, url)
        _unpack(part, archive, directory)
    except OSError as e:
        raise SourceError(
            f"cannot keep {name} in '{directory}': {e.strerror or e}. Name a folder on a disk that"
            " has room and can be written."
        ) from e
    part.unlink()
    return folder


def _download(name: str, url: str, part: Path) -> None:
    """Append to *part* what it lacks."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    with _reached(name, url):
        try:
            response = urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS)
        except urllib.error.HTTPError as e:
            if have and e.code == REQUESTED_RANGE_IS_EMPTY:  # all of it is here
                e.close()
                return
            raise
    with response:
        resumed = response.status == http.HTTPStatus.PARTIAL_CONTENT
        have = have if resumed else 0
        length = response.headers.get("Content-Length")
        total = have + int(length) if length is not None else None
        _check_room(part, None if total is None else 2 * total - have)
        got = _append(name, url, response, part, have, total)
    if total is not None and got < total:
        raise SourceError(
            f"{url} broke off after {bytes_text(got)} of {bytes_text(total)}. Run the same command"
            " again to go on from there."
        )


def _append(
    name: str,
    url: str,
    response: http.client.HTTPResponse,
    part: Path,
    have: int,
    total: int | None,
) -> int:
    """How many bytes *part* holds at the end."""
    # Counted in kilobytes, which a progress bar can show as it shows images.
    with (
        Progress(f"fetching {name}", rows=_kilobytes(total), unit="kB") as progress,
        part.open("ab" if have else "wb") as file,
    ):
        progress.update(rows=have // 1000)
        while True:
            with _reached(name, url):
                block = response.read(BLOCK_BYTES)
            if not block:
                return have
            file.write(block)
            progress.update(rows=(have + len(block)) // 1000 - have // 1000)
            have += len(block)


def _kilobytes(num_bytes: int | None) -> int | None:
    return None if num_bytes is None else num_bytes // 1000


@contextmanager
def _reached(name: str, url: str) -> Iterator[None]:
    """Say in one sentence what the network did."""
    try:
        yield
    except urllib.error.HTTPError as e:
        e.close()
        raise SourceError(f"{url} answers {e.code} {e.reason}. {_ELSE}") from e
    except (OSError, http.client.HTTPException) as e:
        reason = getattr(e, "reason", e)
        raise SourceError(f"cannot fetch {name} from {url} ({reason}). {_ELSE}") from e


_ELSE = (
    "Run it again when the network is there, pass DATA=/path/to/images, or leave DATA out for"
    " the embedded sample."
)


def _check_room(part: Path, num_bytes: int | None) -> None:
    free = shutil.disk_usage(part.parent).free
    if num_bytes is not None and free < num_bytes:
        raise SourceError(
            f"'{part.parent}' has {bytes_text(free)} free, and {bytes_text(num_bytes)} are needed:"
            " make room, or name a folder on another disk."
        )


def _check(part: Path, md5: str, url: str) -> None:
    with part.open("rb") as file:
        found = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if found != md5:
        part.unlink()
        raise SourceError(
            f"{url} has the md5 {found}: expected {md5}. What came was removed; run the same"
            " command again to fetch it anew."
        )


def _unpack(part: Path, archive: Archive, directory: Path) -> None:
    """Make the folder, whole or not at all."""
    with tempfile.TemporaryDirectory(
        prefix=f".{archive.folder}-", dir=directory, ignore_cleanup_errors=True
    ) as temporary:
        try:
            _extract(part, Path(temporary))
        except (tarfile.TarError, EOFError, zlib.error) as e:
            raise SourceError(
                f"'{part}' cannot be unpacked ({e}): expected a tar of class folders. Remove it"
                " and run the same command again."
            ) from e
        made = Path(temporary) / archive.folder
        if not made.is_dir():
            raise SourceError(f"'{part}' holds no folder {archive.folder!r}. Remove it.")
        words = "".join(f"{wnid} {words}\n" for wnid, words in archive.words.items())
        (made / "LOC_synset_mapping.txt").write_text(words, encoding="utf-8")
        made.replace(directory / archive.folder)


def _extract(part: Path, directory: Path) -> None:
    if not hasattr(tarfile, "data_filter"):
        raise SourceError(
            f"Python {platform.python_version()} cannot unpack an archive safely: expected 3.11.4"
            f" or newer. Unpack '{part}' by hand and pass the folder as DATA."
        )
    with tarfile.open(part) as tar, Progress("unpacking", unit="files") as progress:
        tar.extraction_filter = tarfile.data_filter  # nothing leaves the folder, no odd files
        for member in tar:
            tar.extract(member, directory)
            progress.update(rows=1)
