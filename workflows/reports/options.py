"""The options of `tesserae info`."""

from __future__ import annotations

from dataclasses import dataclass

from workflows.options.fields import Options, option
from workflows.options.shared import store_argument


@dataclass(frozen=True, kw_only=True)
class InfoOptions(Options):
    """The options of `tesserae info`."""

    store: str = store_argument()
    json: bool = option(False, "print all facts as one JSON document")
    all: bool = option(False, "list every quarantined row", implied="the first 50")
