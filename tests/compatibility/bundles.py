"""The bundles of files that earlier versions wrote, and commands of this version on them."""

from __future__ import annotations

import json
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.compatibility.make_fixtures import ROOT
from tests.workflows.training.inline import inline_ranks
from workflows import cli

BUNDLES = {"format-1": 1, "format-2": 2, "before-rooms": 2}
"""The names of the archives beside this file, and the format of the store in each."""


@dataclass(frozen=True)
class Bundle:
    """An unpacked bundle."""

    name: str
    root: Path
    """The folder of the bundle, which is the working directory of the test."""
    patch: pytest.MonkeyPatch

    @property
    def store(self) -> Path:
        """The folder of the store."""
        return self.root / "store"

    @property
    def format(self) -> int:
        """The format of the store."""
        return BUNDLES[self.name]

    @property
    def expected(self) -> dict[str, Any]:
        """The results of the earlier code: of continued runs and of searches."""
        document: dict[str, Any] = json.loads((self.root / "expected.json").read_text())
        return document

    def tesserae(self, *words: object) -> int:
        """Run a command in the bundle's folder, and return its exit status."""
        with inline_ranks(self.patch):
            return cli.main([str(word) for word in words])


def unpack(name: str, folder: Path) -> None:
    """Unpack a bundle as if it had been made in *folder*, whose path runs record."""
    with tarfile.open(Path(__file__).parent / f"{name}.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    for file in folder.glob("runs/*/options.json"):
        file.write_text(file.read_text().replace(str(ROOT), str(folder)))
