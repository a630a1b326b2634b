"""A store keeps the decoding rules that it was started with, so equal files give equal bytes.

`tests/golden/rules-1` holds files on which the versions of the rules differ, and a store that was
made of them by version 1.
"""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest

from pipeline.errors import DecodeError
from pipeline.images import probe
from pipeline.images.decode import decode
from pipeline.images.rejection import READABLE, STATUS_WORDS, TRUNCATED
from pipeline.ingest.recheck import recheck_rows
from pipeline.store import layout, records, table
from pipeline.store.open import open_objects
from tests.images import contents, prepare_inline
from tests.inline import repair_inline, tesserae
from tests.odd_files import odd_images

GOLDEN = Path(__file__).parents[2] / "golden" / "rules-1"
CHOICES = {"sizes": (8, 16), "serves": 16, "shard_rows": 6, "chunk_rows": 2, "seed": 7}

GROWN = {
    "c.0.0.0.0": "20aa6d80401d031c4978a0dfd6f13956bb7b1f2eeba7a704748cd62ac1ca42eb",
    "c.1.0.0.0": "4f67d8fc29e7d37d357b8aa464f07bc8542a058979ab67bf4d55638c2aa18d7b",
    "c.2.0.0.0": "b76b6a6ded59670b69345541981dcd9695ba1e7f0cdd3fdf1692c95862a1d9ed",
    "zarr.json": "1f82f0ec6cd9d843335c94d0bae3a2f5380452e5d23221c5363cf4a259e311ec",
}
"""SHA-256 of the objects of 12 px that the software of that time added to this store."""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    shutil.copytree(GOLDEN / "images", tmp_path / "images")
    return tmp_path / "images"


@pytest.fixture
def store(tmp_path: Path) -> Path:
    recipe = records.load_recipe(open_objects(str(GOLDEN / "store")))
    probed = probe.probe(recipe.filter, rules=1)
    if (probed.decoder, probed.resizer) != (recipe.decoder, recipe.resizer):
        pytest.skip("this machine produces other pixels than the one that created the store")
    shutil.copytree(GOLDEN / "store", tmp_path / "store")
    return tmp_path / "store"


def lose(store: Path, shard: int) -> None:
    """Leave the store as an interrupted run would have left it."""
    for name in (
        layout.done("train"),
        layout.commit("train", shard),
        layout.part("train", shard),
        *(layout.shard("train", size, shard) for size in (8, 16)),
    ):
        (store / name).unlink()


def test_the_golden_files_match_the_generator() -> None:
    """The versions of the rules decode these files differently, or they would prove nothing."""
    files = odd_images()
    for key, data in files.items():
        assert (GOLDEN / "images" / key).read_bytes() == data

    def verdict(data: bytes, rules: int) -> bytes | tuple[int, str]:
        try:
            decoded = decode(data, fit="crop", serves=16, exif=False, rules=rules)
        except DecodeError as e:
            return e.status, e.reason
        return decoded.pixels.tobytes("raw", "RGB")

    differing = {key for key, data in files.items() if verdict(data, 1) != verdict(data, 2)}
    assert len(differing) >= 10
    assert "n00000002/whole.JPEG" not in differing


def test_an_old_recipe_implies_its_rules() -> None:
    """A recipe of rules 1 lacks the fields of later rules."""
    recipe = records.load_recipe(open_objects(str(GOLDEN / "store")))
    assert (recipe.format, recipe.decode_rules) == (1, 1)
    assert (recipe.missing_end, recipe.max_image_bytes) == ("refuse", None)
    assert recipe.decode_arguments["rules"] == 1


@pytest.mark.parametrize("shard", [0, 1, 2])
def test_an_interrupted_run_continues_under_its_rules(
    source: Path, store: Path, shard: int
) -> None:
    """The continued run gives the same arrays and the same table."""
    before = contents(store)
    lose(store, shard)
    prepare_inline(source, str(store), **CHOICES)
    assert contents(store) == before


def test_a_machine_is_probed_by_the_rules_of_the_store(
    source: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both the planner and the worker probe the machine."""
    probed_rules: list[int] = []

    def recording(filter: str, *, rules: int) -> probe.Probe:
        probed_rules.append(rules)
        return honest(filter, rules=rules)

    honest = probe.probe
    monkeypatch.setattr(probe, "probe", recording)
    lose(store, 0)
    prepare_inline(source, str(store), **CHOICES)
    assert set(probed_rules) == {1}
    assert len(probed_rules) >= 2


def test_a_further_size_follows_the_rules_of_the_store(source: Path, store: Path) -> None:
    """The new objects equal those of the software of that time."""
    before = contents(store)
    prepare_inline(source, str(store), **{**CHOICES, "sizes": (8, 12, 16)})
    grown = contents(store)
    assert {name: grown[name] for name in before} == before
    added = {Path(name).name: grown[name] for name in grown if "/12/" in name}
    assert {name: hashlib.sha256(data).hexdigest() for name, data in added.items()} == GROWN


def test_verification_follows_the_rules_of_the_store(source: Path, store: Path) -> None:
    """Every row is decoded again, and none differs."""
    lose(store, 0)
    prepare_inline(source, str(store), **CHOICES)
    assert list(recheck_rows(open_objects(str(store)), "train", 16)) == []


def test_repair_follows_the_rules_of_the_store(
    source: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shard and a table part are restored as they were committed."""
    before = contents(store)
    for name in (layout.shard("train", 8, 1), layout.part("train", 2)):
        (store / name).write_bytes(b"damaged")
    assert repair_inline(monkeypatch, str(store), data=str(source)) == 0
    assert contents(store) == before


@pytest.mark.parametrize(
    "option", [("--missing-end", "keep"), ("--max-image-bytes", "1000")], ids=["end", "bytes"]
)
def test_an_option_that_the_rules_lack_is_refused_by_name(
    source: Path,
    store: Path,
    option: tuple[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The option would give other rows than the committed ones."""
    status = tesserae(monkeypatch, "prepare", source, store, "--sizes", 8, 16, *option)
    assert status == 1
    assert "a store of format 1 decodes by rules 1" in capsys.readouterr().err


# --- rules 2 --------------------------------------------------------------------------------------


@pytest.mark.parametrize("missing_end", ["refuse", "keep"])
def test_the_store_keeps_its_option_for_missing_ends(
    source: Path, tmp_path: Path, missing_end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files are kept with a remark or refused; growth, verification and repair do the same."""
    new = tmp_path / "new"
    prepare_inline(source, str(new), **CHOICES, missing_end=missing_end)
    lines = table.decode_part((new / layout.table("train")).read_bytes()).to_pylist()
    rows = {line["key"]: line for line in lines}
    row = rows["n00000002/no-end.JPEG"]
    assert row["status"] == (READABLE if missing_end == "keep" else TRUNCATED)
    assert "without its end marker" in row["reason"]
    assert rows["n00000000/cut.JPEG"]["status"] == TRUNCATED
    assert rows["n00000002/filled-up.JPEG"]["status"] == TRUNCATED
    assert rows["n00000002/whole.JPEG"]["reason"] is None
    before = contents(new)
    prepare_inline(source, str(new), **{**CHOICES, "sizes": (8, 12, 16)})
    assert {name: data for name, data in contents(new).items() if name in before} == before
    assert list(recheck_rows(open_objects(str(new)), "train", 16)) == []
    (new / layout.part("train", 0)).write_bytes(b"damaged")
    grown = contents(new)
    assert repair_inline(monkeypatch, str(new), data=str(source)) == 0
    assert contents(new) != grown
    assert {name: data for name, data in contents(new).items() if name in before} == before


def test_files_that_all_rules_agree_on_are_unchanged(
    source: Path, store: Path, tmp_path: Path
) -> None:
    """An intact photograph has the same pixels in an old store and in a new one."""
    prepare_inline(source, str(tmp_path / "new"), **CHOICES)
    old, new = (
        {
            line["key"]: line
            for line in table.decode_part((s / layout.table("train")).read_bytes()).to_pylist()
        }
        for s in (store, tmp_path / "new")
    )
    assert old["n00000002/whole.JPEG"] == new["n00000002/whole.JPEG"]
    assert STATUS_WORDS[old["n00000001/floating.tif"]["status"]] == "readable"
    assert STATUS_WORDS[new["n00000001/floating.tif"]["status"]] == "unsupported"
    for size in (8, 16):
        name = layout.shard("train", size, 0)
        row = old["n00000002/whole.JPEG"]["row"]
        assert row < CHOICES["shard_rows"]  # type: ignore[operator]
        start = row // 2 * (2 * size * size * 3 + 4) + row % 2 * size * size * 3
        pixels = [
            (s / name).read_bytes()[start:][: size * size * 3] for s in (store, tmp_path / "new")
        ]
        assert pixels[0] == pixels[1]
