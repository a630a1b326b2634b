"""Download of Imagenette, a small public subset of ImageNet, for `DATA=imagenette`.

    <directory>/imagenette2-320.tgz.part     a partial download, which a later run resumes
    <directory>/imagenette2-320/{train,val}/<wnid>/*.JPEG     exists once verified and unpacked

It has 10 classes with 9,469 train and 3,925 val photographs, whose shorter side is 320 px. The
download takes 342 MB, and the unpacked files as much again.
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
"""How long a connection may deliver no data."""
BLOCK_BYTES = 1 << 18
HTTP_RANGE_NOT_SATISFIABLE = 416


@dataclass(frozen=True)
class Archive:
    """A public archive with one folder per class."""

    url: str
    md5: str
    """The MD5 of the archive, in hexadecimal."""
    folder: str
    """The name of the top-level folder in the archive."""
    words: dict[str, str]
    """The words of each wnid, which the archive lacks."""


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
    """Download, verify and unpack an archive, unless it is already present.

    A partial download of an earlier call is continued.

    Args:
        name: The name of the archive, `imagenette`.
        directory: The folder to download into, created if it is missing. The unpacked folder stays
            in it; the archive is removed.
        url: The URL of a copy of the archive (default: the public one).
        md5: The MD5 of that copy, in hexadecimal (default: that of the public one).

    Returns:
        `<directory>/imagenette2-320`, the folder that holds `train` and `val`. One that exists
        already is returned unchecked.

    Raises:
        SourceError: There is no such archive, the network or the disk fails, there is too little
            free space, or the bytes have another MD5.
        ValueError: *url* is no URL.
    """
    if name not in ARCHIVES:
        raise SourceError(f"there is no archive {name!r}: expected one of {', '.join(ARCHIVES)}.")
    archive = ARCHIVES[name]
    folder = directory / archive.folder
    if folder.is_dir():
        return folder
    url = archive.url if url is None else url
    part = directory / f"{archive.folder}.tgz.part"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        _download(name, url, part)
        _check_archive(part, archive.md5 if md5 is None else md5, url)
        _unpack(part, archive, directory)
    except OSError as e:
        raise SourceError(
            f"cannot store {name} in '{directory}': {e.strerror or e}. Pass a writable folder on a"
            " disk with enough free space."
        ) from e
    part.unlink()
    return folder


def _download(name: str, url: str, part: Path) -> None:
    """Download *url* to *part*, resuming a partial download."""
    num_downloaded = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(
        url, headers={"Range": f"bytes={num_downloaded}-"} if num_downloaded else {}
    )
    with _network_errors(name, url):
        try:
            response = urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS)
        except urllib.error.HTTPError as e:
            if (
                num_downloaded and e.code == HTTP_RANGE_NOT_SATISFIABLE
            ):  # the download was complete already
                e.close()
                return
            raise
    with response:
        # A server that ignores the Range header sends the whole file with status 200.
        resumed = response.status == http.HTTPStatus.PARTIAL_CONTENT
        num_downloaded = num_downloaded if resumed else 0
        length = response.headers.get("Content-Length")
        total = num_downloaded + int(length) if length is not None else None
        _check_room(part, None if total is None else 2 * total - num_downloaded)
        num_received = _append(name, url, response, part, num_downloaded, total)
    if total is not None and num_received < total:
        raise SourceError(
            f"{url} closed the connection after {bytes_text(num_received)} of"
            f" {bytes_text(total)}. Run the same command again to continue."
        )


def _append(
    name: str,
    url: str,
    response: http.client.HTTPResponse,
    part: Path,
    num_downloaded: int,
    total: int | None,
) -> int:
    """Append the response to *part*, and return the size of *part* in bytes."""
    # The progress display counts rows, so a row is a kilobyte here.
    with (
        Progress(f"downloading {name}", rows=_kilobytes(total), unit="kB") as progress,
        part.open("ab" if num_downloaded else "wb") as file,
    ):
        progress.update(rows=num_downloaded // 1000)
        while True:
            with _network_errors(name, url):
                block = response.read(BLOCK_BYTES)
            if not block:
                return num_downloaded
            file.write(block)
            progress.update(rows=(num_downloaded + len(block)) // 1000 - num_downloaded // 1000)
            num_downloaded += len(block)


def _kilobytes(num_bytes: int | None) -> int | None:
    return None if num_bytes is None else num_bytes // 1000


@contextmanager
def _network_errors(name: str, url: str) -> Iterator[None]:
    """Turn network errors inside the block into a SourceError with one sentence."""
    try:
        yield
    except urllib.error.HTTPError as e:
        e.close()
        raise SourceError(f"{url} returned {e.code} {e.reason}. {_ADVICE}") from e
    except (OSError, http.client.HTTPException) as e:
        reason = getattr(e, "reason", e)
        raise SourceError(f"cannot download {name} from {url} ({reason}). {_ADVICE}") from e


_ADVICE = (
    "Run the command again when the network is available, pass DATA=/path/to/images, or leave DATA"
    " out to use the embedded sample."
)


def _check_room(part: Path, num_bytes: int | None) -> None:
    free = shutil.disk_usage(part.parent).free
    if num_bytes is not None and free < num_bytes:
        raise SourceError(
            f"'{part.parent}' has {bytes_text(free)} free, but {bytes_text(num_bytes)} are needed."
            " Free some space, or pass a folder on another disk."
        )


def _check_archive(part: Path, md5: str, url: str) -> None:
    with part.open("rb") as file:
        digest = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if digest != md5:
        part.unlink()
        raise SourceError(
            f"{url} has the md5 {digest}: expected {md5}. The download was removed; run the same"
            " command again to repeat it."
        )


def _unpack(part: Path, archive: Archive, directory: Path) -> None:
    """Unpack *part* in a temporary folder, and rename it, so that the result is always complete."""
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
        unpacked = Path(temporary) / archive.folder
        if not unpacked.is_dir():
            raise SourceError(
                f"'{part}' has no folder {archive.folder!r}. Remove it and run the same command"
                " again."
            )
        words = "".join(f"{wnid} {words}\n" for wnid, words in archive.words.items())
        (unpacked / "LOC_synset_mapping.txt").write_text(words, encoding="utf-8")
        unpacked.replace(directory / archive.folder)


def _extract(part: Path, directory: Path) -> None:
    if not hasattr(tarfile, "data_filter"):
        raise SourceError(
            f"Python {platform.python_version()} cannot unpack an archive safely: expected 3.11.4"
            f" or newer. Unpack '{part}' by hand and pass the folder as DATA."
        )
    with tarfile.open(part) as tar, Progress("unpacking", unit="files") as progress:
        tar.extraction_filter = tarfile.data_filter  # rejects paths outside and device files
        for member in tar:
            tar.extract(member, directory)
            progress.update(rows=1)
