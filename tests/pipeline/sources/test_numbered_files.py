"""Numbered archives with gaps."""

import re

import pytest

from pipeline.sources import open_source
from pipeline.sources.location import Location
from pipeline.sources.numbered_files import missing_numbers
from pipeline.sources.options import SourceOptions
from tests.pipeline.sources.layouts import made_pictures, tar_bytes, write_class_tars


def remarks(*paths: str, **how: object) -> list[str]:
    return list(missing_numbers(Location("/data", options=SourceOptions(**how)), paths))


@pytest.mark.parametrize(
    ("paths", "text"),
    [
        (("s-000.tar", "s-002.tar"), "1 of the files numbered 000 to 002 is missing: s-001.tar"),
        (("0000.parquet", "0009.parquet"), "8 .* 0000 to 0009 are .*: 0001.* and 5 more"),
        (("train/8.tar", "train/9.tar", "train/11.tar"), "numbered 8 to 11 .*: train/10.tar"),
        (("a-1.tar", "a-3.tar", "b-1.tar", "b-2.tar"), ": a-2.tar"),
        (("s-1.tar.bz2", "s-3.tar.bz2"), r": s-2\.tar\.bz2$"),
    ],
)
def test_missing_numbers_of_a_series_are_reported(paths, text):
    """The remark names the first three missing files."""
    lines = remarks(*paths)
    assert len(lines) == 1
    assert re.search(text, lines[0])


@pytest.mark.parametrize(
    "paths",
    [
        ("s-005.tar", "s-006.tar"),
        ("coco-2014.tar", "coco-2020.tar"),
        ("x-82347238723.tar", "x-99381.tar"),
        ("x-0.tar", "x-3000000.tar"),
        ("a.tar", "b.tar"),
        ("train-00000-of-00002.tar", "train-00001-of-00002.tar"),
    ],
)
def test_numbers_that_are_no_series_are_not_reported(paths):
    """Years and hashes are no series, and listing rules 1 report no gaps."""
    assert remarks(*paths) == []
    assert remarks("s-0.tar", "s-2.tar", rules=1) == []


def test_ignored_files_are_not_missed():
    """Ignored files are neither missed nor counted."""
    assert remarks("s/s-000.tar", "s/s-002.tar", ignore=("s-001.tar",)) == []
    lines = remarks("s/s-000.tar", "s/s-006.tar", ignore=("s-001.tar",))
    assert lines == [
        "4 of the files numbered 000 to 006 are missing: s/s-002.tar, s/s-003.tar, s/s-004.tar"
        " and 1 more"
    ]


def test_sources_report_missing_shards(tmp_path):
    """Class tars have WordNet ids, which are no series."""
    for number in (0, 2):
        members = {f"{number}.jpg": b"1", f"{number}.cls": b"0"}
        (tmp_path / f"s-{number:03d}.tar").write_bytes(tar_bytes(members))
    assert "s-001.tar" in open_source(tmp_path, "train").remarks()[0]
    assert open_source(tmp_path / "s-002.tar", "train").remarks() == ()
    root = write_class_tars(tmp_path / "classes", made_pictures())
    assert open_source(root, "train").remarks() == ()
