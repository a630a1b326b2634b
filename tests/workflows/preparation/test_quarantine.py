"""Whoever has rows in quarantine is told why, how many, and one of each by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.inline import tesserae
from tests.pictures import jpeg
from workflows.preparation.quarantine import Reason, by_reason, examples

OPTIONS = ("--sizes", 8, "--workers", 1, "--no-dashboard")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Seven files of which two are whole."""
    files = {
        "cat/a.jpg": jpeg(1),
        "cat/b.avif": b"\0\0\0\x20ftypavif" + bytes(300),
        "cat/c.jpg": b"RIFF\x24\0\0\0WAVEfmt " + bytes(40),
        "cat/no-end.jpg": jpeg(4)[:-2],
        "dog/\x1b[31mcut.jpg": jpeg(2)[:-300],
        "dog/cut-too.jpg": jpeg(3)[:-250],
        "dog/d.jpg": jpeg(5),
    }
    for name, data in files.items():
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "images" / name).write_bytes(data)
    return tmp_path / "images"


def test_the_message_that_stops_a_run_names_files_with_their_reasons(
    source: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One of each reason, and nothing that a terminal would obey."""
    assert tesserae(monkeypatch, "prepare", source, tmp_path / "store", *OPTIONS) == 1
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1
    assert "\x1b" not in printed
    assert "5 of the first 7 images are unreadable" in printed
    assert "3 truncated" in printed
    assert "'cat/b.avif' (unsupported: an AVIF image; convert it to JPEG or PNG)" in printed
    assert "cut" in printed
    assert "pass a larger --max-bad" in printed


def test_where_nothing_is_left_to_be_stopped_the_table_says_why_of_every_row(
    source: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """All rows are made, so the split is finished; the command fails all the same."""
    store = tmp_path / "store"
    shards = ("--shard-rows", 2, "--chunk-rows", 1)
    assert tesserae(monkeypatch, "prepare", source, store, *OPTIONS, *shards) == 1
    assert "of the first 2 images" in capsys.readouterr().err
    assert not list(store.glob("splits/*.done.json"))
    limit = ("--max-bad", 0.7)
    assert tesserae(monkeypatch, "prepare", source, store, *OPTIONS, *limit) == 1
    assert "5 of the first 7 images" in capsys.readouterr().err
    assert len(list(store.glob("splits/*.done.json"))) == 1
    assert tesserae(monkeypatch, "info", store) == 0
    assert "an AVIF image" in capsys.readouterr().out


def test_a_run_ends_with_its_reasons_counted_and_an_example_of_each(
    source: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """In the terminal and in the report."""
    store = tmp_path / "store"
    assert tesserae(monkeypatch, "prepare", source, store, *OPTIONS, "--max-bad", 1) == 0
    printed = capsys.readouterr().out
    assert "1 unsupported: an AVIF image; convert it to JPEG or PNG, e.g. cat/b.avif" in printed
    assert "1 not-an-image: a WAV sound, not an image, e.g. cat/c.jpg" in printed
    assert "2 truncated: image file is truncated" in printed
    assert "without its end marker, whose pixels are all there" in printed
    page = (store / "report.html").read_text()
    assert "an AVIF image; convert it to JPEG or PNG" in page
    assert "Readable rows with a remark" not in page


def test_jpegs_that_are_kept_without_their_end_are_counted(
    source: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """At the end of the run, in the report, and by `tesserae info`."""
    store = tmp_path / "store"
    options = (*OPTIONS, "--max-bad", 1, "--missing-end", "keep")
    assert tesserae(monkeypatch, "prepare", source, store, *options) == 0
    remark = "a JPEG without its end marker, whose pixels are all there"
    printed = capsys.readouterr().out
    assert f"1 readable: {remark}, e.g. cat/no-end.jpg" in printed
    assert "7 rows, 3 readable, 4 quarantined" in printed
    assert "Readable rows with a remark" in (store / "report.html").read_text()
    assert tesserae(monkeypatch, "info", store) == 0
    assert f"1 readable: {remark}, e.g. cat/no-end.jpg" in capsys.readouterr().out
    assert tesserae(monkeypatch, "info", store, "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["recipe"]["missing_end"] == "keep"
    assert facts["recipe"]["max_image_bytes"] == 256 * 2**20
    split = next(iter(facts["splits"].values()))
    assert [line["key"] for line in split["remarks"]] == ["cat/no-end.jpg"]
    assert len(split["quarantine"]) == 4


def line(row: int, word: str, reason: str) -> dict[str, Any]:
    return {"row": row, "key": f"n/{row}", "word": word, "reason": reason}


def test_numbers_do_not_make_reasons_differ() -> None:
    """Bytes that were left over, say."""
    lines = [
        line(0, "truncated", "image file is truncated (7 bytes not processed)"),
        line(1, "corrupt", "broken"),
        line(2, "truncated", "image file is truncated (1,312 bytes not processed)"),
    ]
    assert by_reason(lines) == [
        Reason("truncated", "image file is truncated (7 bytes not processed)", 2, "n/0"),
        Reason("corrupt", "broken", 1, "n/1"),
    ]


@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from(["x", "y 1", "y 22"]))))
def test_every_row_is_counted_once(rows: list[tuple[str, str]]) -> None:
    """Under the first row of its reason."""
    reasons = by_reason(line(n, word, reason) for n, (word, reason) in enumerate(rows))
    assert sum(reason.num_rows for reason in reasons) == len(rows)
    assert len(reasons) <= 4
    counts = [reason.num_rows for reason in reasons]
    assert counts == sorted(counts, reverse=True)


def test_examples_are_few() -> None:
    """And say how many reasons there are beside them."""
    reasons = [Reason("corrupt", f"reason {n}", 1, f"n/{n}") for n in range(5)]
    assert examples(reasons[:1]) == "'n/0' (corrupt: reason 0)"
    assert examples(reasons).endswith("'n/3' (corrupt: reason 3), and 1 more reason")
