"""The files of a model's folder, looked at before a library opens them.

A download that went wrong is met as a broken JSON file, a page or a pointer in the place of the
weights, or a file that ends too early. Libraries tell of those by errors of their own depth, and
seldom name the file.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.errors import TesseraeError

CONFIG, TRANSFORM = "config.json", "preprocessor_config.json"
MAX_HEADER_BYTES = 100 * 2**20
"""The longest header of a safetensors file that its own library reads."""

_LFS = b"version https://git-lfs"
_AGAIN = "Download it again, as a whole folder."


def check_folder(folder: Path) -> None:
    """Refuse a folder with a file that is broken, cut off, or a pointer to another.

    Raises:
        TesseraeError: Naming the file, and what to do.
    """
    try:
        files = sorted(path for path in folder.iterdir() if path.is_file())
        for path in files:
            if path.suffix == ".json":
                read_json(path)
            elif path.suffix == ".safetensors":
                _check_weights(path)
    except OSError as e:
        named = e.filename or folder
        raise TesseraeError(f"{named} cannot be read: {e.strerror or e}.") from e


def read_json(path: Path) -> dict[str, Any]:
    """Read a file of settings.

    Raises:
        TesseraeError: It is no JSON object.
    """
    data = path.read_bytes()
    if data.startswith(_LFS):
        raise _pointer(path)
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as e:
        raise TesseraeError(f"{path} is no JSON ({e}). {_AGAIN}") from e
    if not isinstance(document, dict):
        raise TesseraeError(
            f"{path} holds {type(document).__name__} {str(document)[:40]!r}: expected a JSON"
            f" object. {_AGAIN}"
        )
    return document


def _check_weights(path: Path) -> None:
    """Compare a safetensors file with what its header says."""
    num_bytes = path.stat().st_size
    with path.open("rb") as file:
        beginning = file.read(len(_LFS))
        if beginning == _LFS:
            raise _pointer(path)
        header_bytes = int.from_bytes(beginning[:8], "little") if num_bytes >= 8 else -1
        if not 2 <= header_bytes <= min(MAX_HEADER_BYTES, num_bytes - 8):
            raise TesseraeError(f"{path} {_what_else(num_bytes, beginning)}. {_AGAIN}")
        file.seek(8)
        header = file.read(header_bytes)
    try:
        ends = [
            entry["data_offsets"][1]
            for name, entry in json.loads(header).items()
            if name != "__metadata__"
        ]
        expected = 8 + header_bytes + max(ends, default=0)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError) as e:
        raise TesseraeError(f"{path} has a damaged header ({e}). {_AGAIN}") from e
    if num_bytes != expected:
        raise TesseraeError(
            f"{path} has {num_bytes:,} bytes, and its header says {expected:,}: it is cut off or"
            f" damaged. {_AGAIN}"
        )


def _what_else(num_bytes: int, beginning: bytes) -> str:
    if not num_bytes:
        return "is empty"
    return f"is no safetensors file (it begins with {beginning[:12]!r})"


def _pointer(path: Path) -> TesseraeError:
    return TesseraeError(
        f"{path} is a pointer of Git LFS, not the file itself: run `git lfs pull` in the folder, or"
        " download the file."
    )


def check_opened(where: str, model: nn.Module, mismatched: Any) -> None:
    """Refuse a model whose weights do not fit its settings, or are no finite numbers.

    Args:
        where: Its folder or name.
        model: As it was opened.
        mismatched: (name, shape in the file, shape by the settings) of weights that were left out.

    Raises:
        TesseraeError: Naming the file and one such weight.
    """
    if mismatched:
        name, has, wants = min(tuple(one) for one in mismatched)
        raise TesseraeError(
            f"{where}/{CONFIG} describes another network than the weights beside it are of: {name}"
            f" is {tuple(has)} in the file, and {tuple(wants)} by the settings. Download both"
            " again, from one place."
        )
    bad = next((name for name, value in model.state_dict().items() if not _finite(value)), None)
    if bad is not None:
        raise TesseraeError(
            f"the weights of {where} have values that are no finite numbers, in {bad}. Download"
            " them again, or take an earlier checkpoint if you trained them."
        )


def _finite(value: Tensor) -> bool:
    return not value.is_floating_point() or bool(torch.isfinite(value).all())
