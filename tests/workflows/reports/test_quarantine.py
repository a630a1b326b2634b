"""Quarantined rows are reported with their reasons, their number and an example by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.images import jpeg
from tests.inline import tesserae
from workflows.reports.quarantine import Reason, by_reason, examples

OPTIONS = ("--sizes", 8, "--workers", 1, "--no-dashboard")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Write seven files, of which two are intact images."""
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
    """The message has an example of each reason, and no control characters."""
    assert tesserae(monkeypatch, "prepare", source, tmp_path / "store", *OPTIONS) == 1
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1
    assert "\x1b" not in printed
    assert "5 of the first 7 images are unreadable" in printed
    assert "3 truncated" in printed
    assert "'cat/b.avif' (unsupported: an AVIF image; convert it to JPEG or PNG)" in printed
    assert "cut" in printed
    assert "pass a larger --max-bad" in printed


def test_exceeding_max_bad_on_the_last_shard_still_writes_the_table(
    source: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The split is finished, since all its rows are prepared, but the command fails."""
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
    """Terminal and report both show the reasons."""
    store = tmp_path / "store"
    assert tesserae(monkeypatch, "prepare", source, store, *OPTIONS, "--max-bad", 1) == 0
    printed = capsys.readouterr().out
    assert "1 unsupported: an AVIF image; convert it to JPEG or PNG, e.g. cat/b.avif" in printed
    assert "1 not-an-image: a WAV sound, not an image, e.g. cat/c.jpg" in printed
    assert "2 truncated: image file is truncated" in printed
    assert "without its end marker, whose pixels are all there" in printed
    page = (store / "report.html").read_text()
    assert "an AVIF image; convert it to JPEG or PNG" in page
    assert "Readable rows with decoder remarks" not in page


def test_kept_jpegs_without_eoi_are_counted(
    source: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The number of such files is in the terminal, in the report, and in `tesserae info`."""
    store = tmp_path / "store"
    options = (*OPTIONS, "--max-bad", 1, "--missing-end", "keep")
    assert tesserae(monkeypatch, "prepare", source, store, *options) == 0
    remark = "a JPEG without its end marker, whose pixels are all there"
    printed = capsys.readouterr().out
    assert f"1 readable: {remark}, e.g. cat/no-end.jpg" in printed
    assert "7 rows, 3 readable, 4 quarantined" in printed
    assert "Readable rows with decoder remarks" in (store / "report.html").read_text()
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


def test_reasons_are_grouped_apart_from_numbers() -> None:
    """The number of unread bytes in a reason is an example."""
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
    """A row counts for the first row with the same reason."""
    reasons = by_reason(line(n, word, reason) for n, (word, reason) in enumerate(rows))
    assert sum(reason.num_rows for reason in reasons) == len(rows)
    assert len(reasons) <= 4
    counts = [reason.num_rows for reason in reasons]
    assert counts == sorted(counts, reverse=True)


def test_the_number_of_examples_is_limited() -> None:
    """The text states how many further reasons there are."""
    reasons = [Reason("corrupt", f"reason {n}", 1, f"n/{n}") for n in range(5)]
    assert examples(reasons[:1]) == "'n/0' (corrupt: reason 0)"
    assert examples(reasons).endswith("'n/3' (corrupt: reason 3), and 1 more reason")
