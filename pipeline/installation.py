"""What is installed in this environment, and the command that installs more.

In a checkout that is `make setup`, which also compiles Pillow-SIMD; in another environment it is
pip. This module uses the standard library only.
"""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

DISTRIBUTION = "tesserae-images"
"""The name of Tesserae on a package index, where `tesserae` is another project."""
ROOT = Path(__file__).resolve().parents[1]
"""The folder that the packages are in: that of a checkout, or `site-packages`."""
EXTRAS = {
    **dict.fromkeys(
        (
            *("safetensors", "scipy", "sklearn", "threadpoolctl"),
            *("torch", "torchmetrics", "transformers"),
        ),
        "train",
    ),
    **dict.fromkeys(("faiss", "gensim"), "search"),
    **dict.fromkeys(("onnx", "onnxruntime", "onnxscript"), "onnx"),
    **dict.fromkeys(("mlflow", "sqlalchemy", "tensorboard", "wandb"), "trackers"),
    "dask_jobqueue": "slurm",
    "lmdb": "lsun",
    "s3fs": "s3",
    "skimage": "sample",
}
"""The extra of pyproject.toml that installs each package, or a package that needs it, by the name
under which it is imported."""


def installed_version(name: str) -> str:
    """Return the version of a distribution without importing it; empty if it is not installed.

    Args:
        name: The name of the distribution, such as `numpy`. For `tesserae` it is Tesserae's own,
            not the version of another distribution of that name.
    """
    try:
        return version(DISTRIBUTION if name == "tesserae" else name)
    except PackageNotFoundError:
        return ""


def uses_make() -> bool:
    """Return True if `make setup` makes this environment, and pip does not.

    It does in a checkout, unless the checkout was installed in an environment other than its
    `.venv`, as with `pip install --editable .`.
    """
    if not (ROOT / "Makefile").is_file():
        return False
    is_own = Path(sys.prefix).resolve() == (ROOT / ".venv").resolve()
    return is_own or not installed_version("tesserae")


def command_path() -> str:
    """Return the `tesserae` command as a user types it: in a checkout, `.venv/bin/tesserae`."""
    return ".venv/bin/tesserae" if uses_make() else "tesserae"


def install_advice(extra: str) -> str:
    """Return the advice to install an extra, as a clause such as "run `make setup EXTRAS=train`".

    Args:
        extra: The name of an extra of pyproject.toml, such as `train`.
    """
    if uses_make():
        return f"run `make setup EXTRAS={extra}`"
    return f"run `pip install '{DISTRIBUTION}[{extra}]'`"


def missing_filesystem(error: ImportError) -> str:
    """Return what fsspec misses for a URL, with the advice to install it, without a full stop.

    Args:
        error: The error of fsspec, such as that s3fs cannot be imported.
    """
    extra = EXTRAS.get(str(getattr(error.__cause__, "name", "")))
    return f"{error}: {install_advice(extra)}" if extra else str(error).rstrip(".")


def reinstall_advice() -> str:
    """Return the advice to install everything anew, such as "run `make clean setup`"."""
    if uses_make():
        return "run `make clean setup`"
    return f"install {DISTRIBUTION} in a new virtual environment"
