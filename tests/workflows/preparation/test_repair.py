"""`tesserae repair` rebuilds files from the original images, wherever these are now."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from pipeline.images import probe, rows
from pipeline.store import layout
from tests.commands import run
from tests.damage import damage, snapshot, touched
from tests.images import ENCODED, SMALL, SMALL_OPTIONS, contents, jpeg, make_folder, prepare_inline
from tests.inline import tesserae
from tests.pipeline.sources.layouts import tar_bytes

SHARD = layout.shard("train", 16, 1)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "images", 11, bad=1)


@pytest.fixture
def store(source: Path, tmp_path: Path) -> Path:
    prepare_inline(source, str(tmp_path / "store"), encoded=ENCODED, **SMALL)
    return tmp_path / "store"


def lose(store: Path, *names: str) -> None:
    for name in names or (SHARD,):
        (store / name).unlink()


def test_an_intact_store_is_not_changed(
    store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """No file is written."""
    before = snapshot(store)
    assert tesserae(monkeypatch, "repair", store) == 0
    assert touched(before, snapshot(store)) == set()
    assert "train: ok;" in capsys.readouterr().out


def test_damaged_and_rebuilt_files_are_printed(
    store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Missing and rebuilt files are printed by name."""
    before = snapshot(store)
    lose(store)
    assert tesserae(monkeypatch, "repair", store) == 0
    output = capsys.readouterr().out
    assert f"  {SHARD}: missing" in output
    assert f"  rebuilt: {SHARD}" in output
    assert snapshot(store).data == before.data


def test_an_unfinished_split_is_not_repaired(
    source: Path, store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command fails and refers to `tesserae prepare`."""
    words = ("--sizes", 8, 16, 24, "--limit", 4, "--max-bad", 1, "--workers", 1)
    assert tesserae(monkeypatch, "prepare", source, store, *words) == 0
    before = snapshot(store)
    assert tesserae(monkeypatch, "repair", store) == 1
    assert "Run the same `tesserae prepare` again" in capsys.readouterr().out
    assert touched(before, snapshot(store)) == set()


def test_changed_images_are_refused(
    source: Path, store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One byte of each image differs, and the sizes are the same."""
    lose(store)
    for image in source.rglob("*.JPEG"):
        data = bytearray(image.read_bytes())
        data[-3] ^= 1
        image.write_bytes(data)
    assert tesserae(monkeypatch, "repair", store) == 1
    output = capsys.readouterr().err
    assert "are not those that were committed (crc32c" in output
    assert "Restore the original image" in output
    assert not (store / SHARD).exists()


def test_an_image_of_another_size_is_refused(
    source: Path, store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The error names the image and the option for another location."""
    lose(store)
    for image in source.rglob("*.JPEG"):
        image.write_bytes(image.read_bytes() + b"x")
    assert tesserae(monkeypatch, "repair", store) == 1
    output = capsys.readouterr().err
    assert "the source changed" in output
    assert "pass --data SOURCE" in output


def test_software_with_other_pixels_is_refused(
    store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Repair compares the probe images with the recipe, as prepare does."""
    lose(store)
    real_probe = probe.probe("bicubic")
    monkeypatch.setattr(
        probe, "probe", lambda _, **rules: type(real_probe)(real_probe.decoder, "0" * 64)
    )
    assert tesserae(monkeypatch, "repair", store) == 1
    assert "the resizer produces other pixels here" in capsys.readouterr().err


def test_rebuilt_objects_must_match_their_commit(
    store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The probe may agree by chance; the damaged object stays until a matching one exists."""
    damaged = bytearray((store / SHARD).read_bytes())
    damaged[7] ^= 1
    (store / SHARD).write_bytes(damaged)
    real = rows.resize

    def one_off(decoded, size, **options) -> bytes:
        pixels = real(decoded, size, **options)
        return bytes([pixels[0] ^ 1]) + pixels[1:]

    monkeypatch.setattr(rows, "resize", one_off)
    assert tesserae(monkeypatch, "repair", store) == 1
    assert f"{SHARD}: decoding the source again gives other bytes" in capsys.readouterr().err
    assert (store / SHARD).read_bytes() == damaged
    monkeypatch.undo()
    assert tesserae(monkeypatch, "verify", store) == 1


def test_moved_images_need_data(
    source: Path,
    store: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The option --data is checked against the plan, and recorded as the new location."""
    before = snapshot(store)
    lose(store)
    moved = source.rename(tmp_path / "moved")
    assert tesserae(monkeypatch, "repair", store) == 1
    assert f"were in {source}, which does not exist. Pass --data SOURCE" in capsys.readouterr().err
    assert tesserae(monkeypatch, "repair", store, "--data", moved) == 0
    assert snapshot(store).data == before.data
    assert touched(before, snapshot(store)) == {SHARD}
    lose(store)
    assert tesserae(monkeypatch, "repair", store) == 0
    assert snapshot(store).data == before.data


def test_another_source_is_refused(
    source: Path,
    store: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The error names the difference, and the recorded location stays."""
    before = snapshot(store)
    lose(store)
    other_images = make_folder(tmp_path / "others", 12)
    assert tesserae(monkeypatch, "repair", store, "--data", other_images) == 1
    output = capsys.readouterr().err
    assert "planned from another listing" in output
    assert "the number of samples is 11 in the store, 12 now" in output
    assert tesserae(monkeypatch, "repair", store) == 0
    assert snapshot(store).data == before.data


@pytest.mark.parametrize("kind", ["flip", "truncate", "remove"])
def test_a_lost_source_index_is_rebuilt_from_the_images(
    source: Path,
    store: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    kind: str,
) -> None:
    """A damaged index is not used, and repairs that read no image work without it."""
    before = snapshot(store)
    damage(store, layout.source_index("train"), kind, np.random.default_rng(0))
    lose(store, layout.part("train", 0))
    assert tesserae(monkeypatch, "repair", store) == 0
    lose(store)
    assert tesserae(monkeypatch, "repair", store) == 1
    output = capsys.readouterr().err
    assert "the location of the images of split 'train' is unknown" in output
    assert "with --data SOURCE" in output
    assert tesserae(monkeypatch, "repair", store, "--data", source) == 0
    assert snapshot(store).data == before.data


def test_a_lost_source_index_does_not_stop_prepare(
    source: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command lists the source again and continues."""
    before = snapshot(store)
    for kind in ("flip", "truncate", "remove"):
        damage(store, layout.source_index("train"), kind, np.random.default_rng(1))
        assert tesserae(monkeypatch, "prepare", source, store, *SMALL_OPTIONS) == 0
        lose(store)
        assert tesserae(monkeypatch, "repair", store) == 0
    assert snapshot(store).data == before.data


def test_streamed_images_are_streamed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The spool was removed at the end of the run; the images may have moved since."""
    pictures = {f"n0000000{i % 3}/{i}.JPEG": jpeg(i) for i in range(11)}
    tar = tmp_path / "in" / "pictures.tar.gz"
    tar.parent.mkdir()
    tar.write_bytes(tar_bytes(pictures, "w:gz"))
    store = tmp_path / "store"
    assert tesserae(monkeypatch, "prepare", tar.parent, store, *SMALL_OPTIONS) == 0
    spool = store / layout.spool("train")
    assert not spool.exists()
    before = snapshot(store)
    lose(store)
    assert tesserae(monkeypatch, "repair", store) == 0
    assert touched(before, snapshot(store)) == {SHARD}
    assert "streaming 1 block of the source (kind tar)" in capsys.readouterr().out
    lose(store)
    moved = tar.parent.rename(tmp_path / "moved")
    assert tesserae(monkeypatch, "repair", store) == 1
    assert str(tar.parent) in capsys.readouterr().err
    assert tesserae(monkeypatch, "repair", store, "--data", moved) == 0
    assert snapshot(store).data == before.data
    assert not spool.exists()


def test_an_unrecoverable_plan_is_recreated_by_prepare(
    source: Path, store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Prepare creates the same plan from the same source and seed."""
    before = snapshot(store)
    lose(store, layout.plan("train"), layout.ledger("train"))
    assert tesserae(monkeypatch, "repair", store) == 1
    assert "Run the original `tesserae prepare`" in capsys.readouterr().err
    assert tesserae(monkeypatch, "prepare", source, store, *SMALL_OPTIONS) == 0
    assert snapshot(store).data == before.data


def test_an_unrecoverable_recipe_is_an_error(
    store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """No recipe is guessed, and no file is written."""
    before = snapshot(store)
    lose(store, layout.RECIPE, layout.ledger("train"))
    assert tesserae(monkeypatch, "repair", store) == 1
    assert "recipe.json is missing or damaged" in capsys.readouterr().err
    assert touched(before, snapshot(store)) == {layout.RECIPE, layout.ledger("train")}


def test_a_recipe_is_restored_from_the_ledger_of_another_split(
    source: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ledger of every split has a copy of the recipe."""
    prepare_inline(source, str(store), split="val", **SMALL)
    before = snapshot(store)
    lose(store, layout.RECIPE, layout.ledger("train"))
    assert tesserae(monkeypatch, "repair", store) == 0
    assert snapshot(store).data == before.data


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("{tmp}/none",), "no store at"),
        (("{store}", "--split", "test"), "no split 'test' in"),
        (("{store}", "--data", "{tmp}/none"), "none"),
    ],
)
def test_invalid_arguments_are_one_line_errors(
    store: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...],
    sentence: str,
) -> None:
    """The store is unchanged."""
    before = snapshot(store)
    filled = [word.format(store=store, tmp=tmp_path) for word in words]
    assert tesserae(monkeypatch, "repair", *filled) == 1
    output = capsys.readouterr().err
    assert sentence in output
    assert output.count("\n") == 1
    assert touched(before, snapshot(store)) == set()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_repair_command_repairs_a_store(source: Path, tmp_path: Path) -> None:
    """The command runs on a cluster of its own."""
    store = tmp_path / "store"
    prepared = run("prepare", source, store, *SMALL_OPTIONS, scratch=tmp_path, seconds=120)
    assert prepared.status == 0, prepared.err
    complete = contents(store, provenance=True)
    rng = np.random.default_rng(6)
    for name in (SHARD, layout.RECIPE, layout.commit("train", 0), layout.part("train", 2)):
        damage(store, name, "flip", rng)
    lose(store, layout.shard("train", 8, 1), layout.done("train"))
    repaired = run("repair", store, "--workers", 2, scratch=tmp_path, seconds=120)
    assert repaired.status == 0, repaired.err
    assert contents(store, provenance=True) == complete
    shutil.rmtree(source)
    lose(store)
    refused = run("repair", store, scratch=tmp_path, seconds=120)
    assert refused.status == 1
    assert refused.err.count("\n") == 1
    assert "Pass --data SOURCE" in refused.err
