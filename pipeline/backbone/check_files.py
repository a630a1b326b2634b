"""Checks of the files in a model's folder, before a library opens them.

A failed download leaves a broken JSON file, an HTML page or a Git LFS pointer instead of weights,
or a truncated file. The errors of libraries about those are obscure and seldom name the file.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.errors import TesseraeError

CONFIG, PREPROCESSOR_CONFIG = "config.json", "preprocessor_config.json"
"""The files of a model's settings, and of its preprocessing."""
MAX_HEADER_BYTES = 100 * 2**20
"""The longest header that the safetensors library reads."""

_LFS = b"version https://git-lfs"
_DOWNLOAD_AGAIN = "Download the whole folder again."


def check_folder(folder: Path) -> None:
    """Check that no JSON or safetensors file in *folder* is broken, truncated or a Git LFS pointer.

    A JSON file must hold an object. Of weights only header and length are read. Folders inside it
    are not examined.

    Args:
        folder: The folder of a model.

    Raises:
        TesseraeError: It names the first such file and the cure, or the folder cannot be read.
    """
    try:
        files = sorted(path for path in folder.iterdir() if path.is_file())
        for path in files:
            if path.suffix == ".json":
                read_json(path)
            elif path.suffix == ".safetensors":
                _check_weights(path)
    except OSError as e:
        path = e.filename or folder
        raise TesseraeError(f"{path} cannot be read: {e.strerror or e}.") from e


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file of settings, as a dictionary.

    Args:
        path: The path of the file.

    Raises:
        TesseraeError: The file holds no JSON object, or is a pointer of Git LFS.
        OSError: The file cannot be read.
    """
    data = path.read_bytes()
    if data.startswith(_LFS):
        raise _lfs_pointer_error(path)
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as e:
        raise TesseraeError(f"{path} is not JSON ({e}). {_DOWNLOAD_AGAIN}") from e
    if not isinstance(document, dict):
        raise TesseraeError(
            f"{path} holds {type(document).__name__} {str(document)[:40]!r}: expected a JSON"
            f" object. {_DOWNLOAD_AGAIN}"
        )
    return document


def _check_weights(path: Path) -> None:
    """Compare the size of a safetensors file with its header."""
    num_bytes = path.stat().st_size
    with path.open("rb") as file:
        beginning = file.read(len(_LFS))
        if beginning == _LFS:
            raise _lfs_pointer_error(path)
        header_bytes = int.from_bytes(beginning[:8], "little") if num_bytes >= 8 else -1
        if not 2 <= header_bytes <= min(MAX_HEADER_BYTES, num_bytes - 8):
            raise TesseraeError(
                f"{path} {_describe_header(num_bytes, beginning)}. {_DOWNLOAD_AGAIN}"
            )
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
        raise TesseraeError(f"{path} has a damaged header ({e}). {_DOWNLOAD_AGAIN}") from e
    if num_bytes != expected:
        raise TesseraeError(
            f"{path} has {num_bytes:,} bytes, and its header says {expected:,}: it is cut off or"
            f" damaged. {_DOWNLOAD_AGAIN}"
        )


def _describe_header(num_bytes: int, beginning: bytes) -> str:
    if not num_bytes:
        return "is empty"
    return f"is not a safetensors file (it begins with {beginning[:12]!r})"


def _lfs_pointer_error(path: Path) -> TesseraeError:
    return TesseraeError(
        f"{path} is a pointer of Git LFS, not the file itself: run `git lfs pull` in the folder, or"
        " download the file."
    )


def check_opened(name_or_path: str, model: nn.Module, mismatched: Any) -> None:
    """Check that a model's weights fit its settings and are finite; nothing is changed.

    Args:
        name_or_path: The folder or name of the model, for the error.
        model: The opened model.
        mismatched: A collection of tuples (name, shape in the file, shape by the settings) of the
            weights that do not fit, empty if all do; `from_pretrained` of transformers returns it
            as `mismatched_keys`.

    Raises:
        TesseraeError: A weight does not fit, or is not finite; it names the model and one of them.
    """
    if mismatched:
        name, file_shape, settings_shape = min(tuple(mismatch) for mismatch in mismatched)
        raise TesseraeError(
            f"{name_or_path}/{CONFIG} does not match the weights in the same folder: {name} is"
            f" {tuple(file_shape)} in the file and {tuple(settings_shape)} by the configuration."
            " Download both again from the same source."
        )
    damaged = next((name for name, value in model.state_dict().items() if not _finite(value)), None)
    if damaged is not None:
        raise TesseraeError(
            f"the weights of {name_or_path} contain NaN or infinity, in {damaged}. Download them"
            " again, or use an earlier checkpoint if you trained them."
        )


def _finite(value: Tensor) -> bool:
    return not value.is_floating_point() or bool(torch.isfinite(value).all())
