"""What Tesserae sets of Dask: `dask.yaml`, which says why of each."""

from __future__ import annotations

import logging
from functools import cache
from pathlib import Path
from typing import Any

import dask
import distributed  # noqa: F401 - its defaults are what these differ from
import yaml

FILE = Path(__file__).with_name("dask.yaml")


@cache
def settings() -> dict[str, Any]:
    """The settings, as `dask.config.set` takes them."""
    with FILE.open(encoding="utf-8") as file:
        return dict(yaml.safe_load(file))


def in_force() -> dask.config.set:
    """Set them for this process, under what the environment says; a context manager.

    They hold from this call on, and until the context is left.
    """
    ours = [dask.config.config, settings(), dask.config.collect_env()]
    return dask.config.set(dask.config.merge(*ours))


def hush() -> None:
    """Keep to itself what a client logs: what it means for a person is said by the command."""
    for name in ("distributed", "distributed.client"):
        # Not Dask's `silence_logs`, which ends with a cluster, before the last connections do.
        logging.getLogger(name).setLevel(logging.CRITICAL)


def allocator() -> dict[str, str]:
    """The environment that glibc's allocator reads when a worker starts."""
    found: dict[str, str] = settings()["distributed"]["nanny"]["pre-spawn-environ"]
    return found
