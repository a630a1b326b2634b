"""The base of all kinds of sources: what a kind must define, and what follows from that."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.errors import SourceError
from pipeline.sources.location import Location
from pipeline.sources.options import SourceOptions
from pipeline.sources.source import Source
from pipeline.sources.spool import Blocks


@dataclass(frozen=True)
class Listed(Source):
    """A source that is read at random."""

    mark: str = "a"

    def marks(self) -> Iterable[str]:
        return [self.mark]

    def list(self, progress: Callable[[int], None]) -> pa.Table:
        return pa.table({"key": ["cat/1.jpg"]})


@dataclass(frozen=True)
class Streamed(Source):
    """A source that is read in blocks."""

    def marks(self) -> Iterable[str]:
        return []

    def blocks(self) -> Blocks:
        return []


def test_the_access_follows_from_the_method_that_a_kind_defines(tmp_path: Path) -> None:
    """The method that a kind does not define raises an error that names the source."""
    listed, streamed = Listed("x", Location.at(tmp_path)), Streamed("x", Location.at(tmp_path))
    assert (listed.access, streamed.access) == ("random", "blocks")
    with pytest.raises(SourceError, match=f"{tmp_path} is read at random"):
        listed.blocks()
    with pytest.raises(SourceError, match=f"{tmp_path} is read in blocks"):
        streamed.list(lambda num_new: None)


def test_a_fingerprint_depends_on_marks_kind_folder_and_options(tmp_path: Path) -> None:
    """A change of any of them changes the fingerprint, which is otherwise reproducible."""
    (tmp_path / "other").mkdir()
    location = Location.at(tmp_path)
    options = location.options.of({"ignore": ["x"]}, location.options.rules)
    sources = [
        Listed("x", location),
        Listed("x", location, "b"),
        Listed("y", location),
        Listed("x", location.child("other")),
        Listed("x", Location.at(tmp_path, options)),
    ]
    assert len({source.fingerprint() for source in sources}) == len(sources)
    assert Listed("x", Location.at(tmp_path)).fingerprint() == sources[0].fingerprint()


def test_the_rules_are_no_option_that_is_chosen() -> None:
    """The version of the rules comes from the store, so that among the options it is refused."""
    with pytest.raises(ValueError, match="'rules' is not an option"):
        SourceOptions.of({"rules": 1}, 2)


def test_a_kind_has_no_preview_remarks_or_class_table_by_default(tmp_path: Path) -> None:
    """Words come from a table beside the images, as for every kind."""
    source = Listed("x", Location.at(tmp_path))
    source.check()
    assert (source.preview(), source.remarks(), source.class_table()) == (None, (), None)
    assert source.words() == {}
    (tmp_path / "words.txt").write_text("n01440764\ttench\n")
    assert Listed("x", Location.at(tmp_path)).words() == {"n01440764": "tench"}
