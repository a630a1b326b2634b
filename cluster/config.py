"""The Dask settings of Tesserae, read from `dask.yaml`, which gives the reason for each."""

from __future__ import annotations

import logging
from functools import cache
from pathlib import Path
from typing import Any

import dask
import distributed  # noqa: F401 - its defaults are what these differ from
import yaml

SETTINGS_FILE = Path(__file__).with_name("dask.yaml")


@cache
def dask_settings() -> dict[str, Any]:
    """Return the settings as nested dictionaries, the form that `dask.config.set` accepts."""
    with SETTINGS_FILE.open(encoding="utf-8") as file:
        return dict(yaml.safe_load(file))


def applied_settings() -> dask.config.set:
    """Apply the settings to this process until the returned context manager exits.

    They take effect at the call. Settings in environment variables have priority.
    """
    layers = [dask.config.config, dask_settings(), dask.config.collect_env()]
    return dask.config.set(dask.config.merge(*layers))


def silence_client_logs() -> None:
    """Silence the log of Dask clients: commands report errors to the user themselves."""
    for name in ("distributed", "distributed.client"):
        # Dask's `silence_logs` ends with the cluster, before its last connections are closed.
        logging.getLogger(name).setLevel(logging.CRITICAL)


def allocator_environment() -> dict[str, str]:
    """Return the environment variables that configure glibc's allocator in a new worker."""
    environment: dict[str, str] = dask_settings()["distributed"]["nanny"]["pre-spawn-environ"]
    return environment
