"""`tesserae info`, as text and as JSON, on complete, unfinished and damaged stores."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.store import layout
from tests.damage import KINDS, damage, files, snapshot, touched
from tests.images import ENCODED, SMALL, SMALL_OPTIONS, jpeg, make_folder, prepare_inline
from tests.inline import tesserae


@pytest.fixture(scope="module")
def prepared_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("info")
    prepare_inline(make_folder(root / "images", 11, bad=2), str(root / "store"), **SMALL)
    return root / "store"


@pytest.fixture
def store(prepared_store: Path, tmp_path: Path) -> Path:
    return shutil.copytree(prepared_store, tmp_path / "store")


def info_output(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: object
) -> str:
    capsys.readouterr()
    assert tesserae(monkeypatch, "info", *words) == 0
    return capsys.readouterr().out


def facts(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], store: Path) -> Any:
    return json.loads(info_output(monkeypatch, capsys, store, "--json"))


def test_a_complete_store_is_described(
    store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The text has splits, sizes, rows, recipe, and the reasons of quarantined rows."""
    before = snapshot(store)
    output = info_output(monkeypatch, capsys, store)
    assert f"{store}  (format 2)" in output
    assert "crop, bicubic, 3 classes, 4 rows per shard, 2 per chunk, codec none" in output
    assert "train  finished: 11 of 11 rows, 3 of 3 shards" in output
    assert "quarantined: 2 truncated" in output
    assert output.count(": truncated, ") == 2
    assert touched(before, snapshot(store)) == set()


def test_json_has_all_facts(
    store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Quarantined rows are listed by key and reason."""
    split = facts(monkeypatch, capsys, store)["splits"]["train"]
    assert (split["finished"], split["rows"], split["shards"]) == (True, 11, 3)
    assert split["sizes_finished"] == [8, 16]
    assert split["sizes"]["8"]["num_bytes"] == sum(
        (store / layout.shard("train", 8, shard)).stat().st_size for shard in range(3)
    )
    assert split["problems"] == []
    assert sorted(line["key"] for line in split["quarantine"]) == [
        "n00000000/n00000000_9.JPEG",
        "n00000001/n00000001_10.JPEG",
    ]
    for line in split["quarantine"]:
        assert (line["status"], line["word"]) == (3, "truncated")
        assert line["reason"]
        assert 0 <= line["row"] < 11


def test_encoded_arrays_are_described(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The bytes of a row are those on disk for each readable row; source files have no encoder."""
    store = tmp_path / "store"
    prepare_inline(
        make_folder(tmp_path / "images", 11, bad=2), str(store), encoded=ENCODED, **SMALL
    )
    split = facts(monkeypatch, capsys, store)["splits"]["train"]
    assert split["sizes_finished"] == [8, 16]
    assert split["encoded_finished"] == sorted(split["encoded"]) == ["jpeg16@90", "original"]
    for name, array in split["encoded"].items():
        objects = [store / layout.encoded_shard("train", name, shard) for shard in range(3)]
        assert array["num_bytes"] == sum(file.stat().st_size for file in objects)
        assert array["mean_row_bytes"] == round(array["num_bytes"] / 9)
    assert split["encoded"]["original"].items() >= {
        "short_side": None, "quality": None, "encoder": None,
    }.items()  # fmt: skip
    jpegs = split["encoded"]["jpeg16@90"]
    assert (jpegs["short_side"], jpegs["quality"]) == (16, 90)
    assert "Pillow" in jpegs["encoder"]
    lines = info_output(monkeypatch, capsys, store).splitlines()
    arrays = [line.split() for line in lines if " kB" in line or " MB" in line or " B" in line]
    assert [words[0] for words in arrays] == ["8", "16", "original", "jpeg16@90"]
    assert arrays[2][3:] == [*arrays[2][3:5], "per", "readable", "row"]
    assert not any("not finished" in line for line in lines)


def test_an_encoded_array_without_its_plan_is_described(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its encoder is unknown; and without readable rows there are no bytes per row."""
    store = tmp_path / "store"
    prepare_inline(make_folder(tmp_path / "images", 3, bad=3), str(store), encoded=ENCODED, **SMALL)
    (store / layout.encoded_plan("train", "jpeg16@90")).unlink()
    (store / layout.ledger("train")).unlink()
    array = facts(monkeypatch, capsys, store)["splits"]["train"]["encoded"]["jpeg16@90"]
    assert (array["encoder"], array["mean_row_bytes"]) == (None, None)
    assert "per readable row" not in info_output(monkeypatch, capsys, store)


def test_an_unfinished_store_is_described(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The committed rows and the unfinished sizes of each split are shown."""
    source = make_folder(tmp_path / "images", 11, bad=1)
    store = tmp_path / "limited"
    assert tesserae(monkeypatch, "prepare", source, store, *SMALL_OPTIONS, "--limit", 5) == 0
    output = info_output(monkeypatch, capsys, store)
    assert "train  not finished: 8 of 11 rows, 2 of 3 shards" in output
    assert "(not finished)" in output
    split = facts(monkeypatch, capsys, store)["splits"]["train"]
    assert (split["finished"], split["rows_committed"], split["shards_committed"]) == (False, 8, 2)
    assert split["sizes_finished"] == split["encoded_finished"] == []
    assert set(split["encoded"]) == {"jpeg16@90", "original"}


def test_a_store_without_a_split_is_described(
    store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The text shows the recipe."""
    for folder in ("splits", "commits"):
        shutil.rmtree(store / folder)
    assert "crop, bicubic" in info_output(monkeypatch, capsys, store)
    assert facts(monkeypatch, capsys, store)["splits"] == {}


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_store_is_described_with_its_problems(
    prepared_store: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    kind: str,
) -> None:
    """All records, and the table parts with quarantined rows, are checked; nothing else is read."""
    rng = np.random.default_rng(0)
    bad = facts(monkeypatch, capsys, prepared_store)["splits"]["train"]["quarantine"]
    read = {layout.part("train", line["row"] // SMALL["shard_rows"]) for line in bad}
    assert read
    for index, file in enumerate(files(prepared_store)):
        name = str(file.relative_to(prepared_store))
        if name.startswith("images.zarr"):
            continue
        store = shutil.copytree(prepared_store, tmp_path / str(index))
        damage(store, name, kind, rng)
        described = facts(monkeypatch, capsys, store)
        named = [problem["name"] for problem in described["splits"]["train"]["problems"]]
        assert described["recipe"] is not None
        if name.startswith("samples") and name not in read:
            assert named == []
        else:
            assert named == [name]
            assert f"{name}: " in info_output(monkeypatch, capsys, store)


def test_a_store_without_plan_and_recipe_is_described_partially(
    store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command succeeds and names what is missing."""
    for name in (layout.RECIPE, layout.plan("train"), layout.ledger("train")):
        (store / name).unlink()
    output = info_output(monkeypatch, capsys, store)
    assert "recipe  missing" in output
    assert "plan missing" in output
    assert facts(monkeypatch, capsys, store)["recipe"] is None


def test_names_are_escaped_in_the_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Escape sequences and bidirectional text in file names are examples."""
    names = ["\x1b[2J\x1b]0;owned\x07.JPEG", "\u202egpj.JPEG", "é 😀.JPEG"]
    folder = tmp_path / "images" / "n00000000"
    folder.mkdir(parents=True)
    for index, name in enumerate(names):
        (folder / name).write_bytes(jpeg(index)[:300])
    prepare_inline(tmp_path / "images", str(tmp_path / "store"), **SMALL)
    output = info_output(monkeypatch, capsys, tmp_path / "store")
    assert all(c.isprintable() or c == "\n" for c in output)
    assert r"\x1b[2J\x1b]0;owned\x07.JPEG" in output
    assert r"\u202egpj.JPEG" in output
    assert "é 😀.JPEG" in output
    quarantine = facts(monkeypatch, capsys, tmp_path / "store")["splits"]["train"]["quarantine"]
    assert sorted(line["key"] for line in quarantine) == sorted(
        f"n00000000/{name}" for name in names
    )


def test_more_quarantined_names_than_fit_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The option `--all` lists all of them."""
    make_folder(tmp_path / "images", 60, bad=55)
    prepare_inline(tmp_path / "images", str(tmp_path / "store"), shard_rows=64, chunk_rows=4)
    output = info_output(monkeypatch, capsys, tmp_path / "store")
    assert output.count(": truncated, ") == 50
    assert "... and 5 more; --all lists them" in output
    assert (
        info_output(monkeypatch, capsys, tmp_path / "store", "--all").count(": truncated, ") == 55
    )


def test_a_missing_store_is_a_one_line_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The exit status is 1."""
    assert tesserae(monkeypatch, "info", tmp_path) == 1
    output = capsys.readouterr().err
    assert f"no store at {tmp_path}" in output
    assert output.count("\n") == 1
