"""`tesserae verify` names problems, fails on unfinished splits, and compares with the source."""

import shutil
from dataclasses import replace
from pathlib import Path

import google_crc32c
import numpy as np
import pytest

from pipeline.store import document, layout, records
from pipeline.store.fingerprint import fingerprint
from pipeline.store.ledger import encode_ledger, read_ledger
from pipeline.store.local import LocalObjects
from tests.damage import damage, snapshot, touched
from tests.images import SMALL, SMALL_OPTIONS, jpeg, make_folder, prepare_inline
from tests.inline import tesserae
from tests.pipeline.sources.layouts import tar_bytes


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "images", 11, bad=1)


@pytest.fixture
def store(source: Path, tmp_path: Path) -> Path:
    prepare_inline(source, str(tmp_path / "store"), **SMALL)
    return tmp_path / "store"


def verify(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: object
) -> tuple[int, str, str]:
    status = tesserae(monkeypatch, "verify", *words)
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def forge(store: Path, size: int, shard: int) -> str:
    """Change one byte of one image and all digests of it; return the name of its shard."""
    objects = LocalObjects(str(store), "train-forge")
    objects.begin()
    name = layout.shard("train", size, shard)
    data = bytearray(objects.get(name))
    chunk = 2 * size * size * 3
    data[5] ^= 1
    data[chunk : chunk + 4] = google_crc32c.value(bytes(data[:chunk])).to_bytes(4, "little")
    objects.put(name, bytes(data))
    commit = records.load_commit(objects, "train", shard)
    assert commit is not None
    forged = replace(commit, arrays={**commit.arrays, str(size): fingerprint(name, bytes(data))})
    objects.put(layout.commit("train", shard), forged.encode())
    ledger = read_ledger(objects, "train").copies
    ledger[layout.commit("train", shard)] = forged.encode()
    objects.put(layout.ledger("train"), encode_ledger(ledger.items()))
    objects.end()
    return name


def test_an_intact_store_is_reported_as_ok(
    store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The output has the number of files, bytes and rows; nothing is written."""
    before = snapshot(store)
    status, out, err = verify(monkeypatch, capsys, store)
    assert (status, err) == (0, "")
    assert "train: ok; 21 files" in out
    assert "train: 11 of 11 rows committed, 10 readable, 1 quarantined" in out
    assert touched(before, snapshot(store)) == set()


def test_damaged_files_are_listed_with_the_problem(
    store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Files are missing, changed or of another size; the output says how to repair them."""
    rng = np.random.default_rng(0)
    damage(store, layout.shard("train", 8, 0), "remove", rng)
    damage(store, layout.shard("train", 8, 1), "flip", rng)
    (store / layout.shard("train", 8, 2)).write_bytes(b"1234")
    status, out, _ = verify(monkeypatch, capsys, store)
    assert status == 1
    assert f"  {layout.shard('train', 8, 0)}: missing\n" in out
    assert f"  {layout.shard('train', 8, 1)}: damaged\n" in out
    assert f"  {layout.shard('train', 8, 2)}: has 4 bytes, 812 were committed\n" in out
    assert "train: 3 damaged or missing" in out
    assert "`tesserae repair` restores damaged files" in out


def test_an_unfinished_split_fails_verification(
    source: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Nothing is damaged, and `tesserae prepare` continues the split."""
    store = tmp_path / "limited"
    assert tesserae(monkeypatch, "prepare", source, store, *SMALL_OPTIONS, "--limit", 5) == 0
    status, out, _ = verify(monkeypatch, capsys, store)
    assert status == 1
    assert "not finished: 1 of 3 shards are not committed" in out
    assert "Run the same `tesserae prepare` again" in out
    assert tesserae(monkeypatch, "prepare", source, store, *SMALL_OPTIONS) == 0
    assert verify(monkeypatch, capsys, store)[0] == 0


def test_a_split_without_its_plan_fails_verification(
    source: Path, store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another, intact split of the store does not hide it."""
    words = ("--split", "val", "--limit", 4, "--max-bad", 1, "--workers", 1, "--sizes", 8)
    assert tesserae(monkeypatch, "prepare", source, store, *words) == 0
    for name in (layout.plan("val"), layout.ledger("val")):
        (store / name).unlink()
    status, out, _ = verify(monkeypatch, capsys, store)
    assert status == 1
    assert "splits/val.json: missing" in out
    assert "train: ok;" in out


def test_unknown_files_are_notes(
    store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Control characters in their names are escaped."""
    (store / "images.zarr" / "train" / "8" / "c.9.0.0.\x1b[2J").write_bytes(b"x")
    status, out, _ = verify(monkeypatch, capsys, store)
    assert status == 0
    assert r"note: images.zarr/train/8/c.9.0.0.\x1b[2J belongs to no commit" in out


def test_rows_decoded_again_equal_the_stored_ones(
    store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """All rows are decoded if there are fewer than requested, also quarantined ones."""
    status, out, _ = verify(monkeypatch, capsys, store, "--source", 50)
    assert status == 0
    assert "train: 11 rows decoded again from the source, 0 differ" in out


def test_verify_source_finds_pixels_changed_with_their_checksums(
    store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The output names the shard and the row."""
    name = forge(store, 16, 1)
    assert verify(monkeypatch, capsys, store)[0] == 0
    status, out, _ = verify(monkeypatch, capsys, store, "--source")
    assert status == 1
    assert f"  {name}: row 4 (" in out
    assert "other pixels" in out
    assert "11 rows decoded again from the source, 1 differ" in out


def test_changed_images_are_found(
    source: Path, store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An image with a changed byte, a shortened one and a missing one are named by their files."""
    images = sorted(source.rglob("*.JPEG"))[:3]
    data = bytearray(images[0].read_bytes())
    data[-3] ^= 1
    images[0].write_bytes(data)
    images[1].write_bytes(images[1].read_bytes()[:-1])
    images[2].unlink()
    status, out, _ = verify(monkeypatch, capsys, store, "--source", 11)
    assert status == 1
    assert "3 differ" in out
    assert f"  {images[0]}: row" in out
    assert "its source bytes differ from the committed ones" in out
    assert "the source changed" in out
    assert "No such file" in out


def test_rows_that_crashed_the_decoder_are_not_decoded_again(
    source: Path, store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The zeros of such rows are still compared."""
    from pipeline.ingest import recheck

    real = recheck.table.decode_part

    def crashed(data: bytes, name: str, rows: range):
        part = real(data, name, rows)
        status = recheck.table.pa.array([7] * len(part), "uint8")
        return part.set_column(part.schema.get_field_index("status"), "status", status)

    monkeypatch.setattr(recheck.table, "decode_part", crashed)
    monkeypatch.setattr(recheck, "make_rows", lambda *_, **__: pytest.fail("it was decoded"))
    status, out, _ = verify(monkeypatch, capsys, store, "--source")
    assert status == 1  # zeros were expected where readable rows are
    assert "10 rows" not in out
    assert out.count("other pixels") == 20


def test_a_missing_source_is_a_one_line_error(
    source: Path, store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The error is not repeated for each row."""
    shutil.rmtree(source)
    status, _, err = verify(monkeypatch, capsys, store, "--source")
    assert status == 1
    assert err.count("\n") == 1
    assert f"were in {source}, which does not exist" in err
    assert "--data SOURCE" in err


def test_a_streamed_source_is_a_one_line_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The spool was removed, so single rows cannot be read."""
    (tmp_path / "in").mkdir()
    pictures = {f"n00000001/{i}.JPEG": jpeg(i) for i in range(5)}
    (tmp_path / "in" / "pictures.tar.gz").write_bytes(tar_bytes(pictures, "w:gz"))
    store = tmp_path / "store"
    assert tesserae(monkeypatch, "prepare", tmp_path / "in", store, *SMALL_OPTIONS) == 0
    assert verify(monkeypatch, capsys, store)[0] == 0
    status, _, err = verify(monkeypatch, capsys, store, "--source")
    assert status == 1
    assert err.count("\n") == 1
    assert "can only be streamed" in err


def test_a_newer_format_is_not_reported_as_damaged(
    store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nobody should repair a store that is only too new."""
    fields = document.decode_document((store / layout.RECIPE).read_bytes(), layout.RECIPE)
    (store / layout.RECIPE).write_bytes(document.encode_document({**fields, "format": 3}))
    status, _, err = verify(monkeypatch, capsys, store)
    assert status == 1
    assert "recipe.json has format 3: this version reads 1 and 2" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("{tmp}/none",), "no store at"),
        (("{tmp}/images",), "no store at"),
        (("{store}", "--split", "test"), "no split 'test' in"),
        (("{store}", "--source", "0"), "--source is 0: expected at least 1"),
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
    """The exit status is 1."""
    filled = [word.format(store=store, tmp=tmp_path) for word in words]
    status, _, err = verify(monkeypatch, capsys, *filled)
    assert status == 1
    assert sentence in err
    assert err.count("\n") == 1
