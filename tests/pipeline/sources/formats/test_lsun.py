"""LSUN's tables, in which every row is read once, whatever its key."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import lmdb
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.errors import SourceError
from pipeline.sources import open_source, source_splits
from pipeline.sources.formats import lsun
from tests.images import jpeg
from tests.pipeline.sources.formats.test_cifar import read


def write(folder: Path, rows: dict[bytes, bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    with lmdb.open(str(folder), map_size=2**24) as table, table.begin(write=True) as view:
        for key, data in rows.items():
            assert view.put(key, data)
    return folder


def hashes(count: int, seed: int = 0) -> dict[bytes, bytes]:
    names = (hashlib.sha1(b"%d" % number).hexdigest().encode() for number in range(count))
    return {name: jpeg(number + seed) for number, name in enumerate(names)}


def test_tables_are_classes_and_source_splits(tmp_path: Path) -> None:
    """Class and split come from a table's name, and keys from its rows."""
    rooms, towers = hashes(30), hashes(9, 50)
    write(tmp_path / "lsun" / "bedroom_train_lmdb", rooms)
    write(tmp_path / "lsun" / "church_outdoor_train_lmdb", towers)
    write(tmp_path / "lsun" / "bedroom_val_lmdb", hashes(3, 90))
    assert source_splits(tmp_path / "lsun") == ["train", "val"]
    images = read(tmp_path / "lsun", "train", tmp_path / "spool")
    assert images == {
        f"{name}/{key.decode()}.jpg": data
        for name, rows in (("bedroom", rooms), ("church_outdoor", towers))
        for key, data in rows.items()
    }


def test_a_single_table_is_a_source(tmp_path: Path) -> None:
    """The table has the split in its name, or any split."""
    write(tmp_path / "bedroom_val_lmdb", hashes(4))
    assert source_splits(tmp_path / "bedroom_val_lmdb") == ["val"]
    assert len(read(tmp_path / "bedroom_val_lmdb", "val", tmp_path / "spool")) == 4
    write(tmp_path / "mine", {b"\x00\xff": jpeg(1)})
    assert list(read(tmp_path / "mine", "train", tmp_path / "other")) == ["mine/00ff.jpg"]


@example(rows={b"K\xff": b"1", b"L": b"2", b"\xff\xff": b"3"})
@given(
    rows=st.dictionaries(
        st.binary(min_size=1, max_size=5), st.binary(min_size=1, max_size=9), max_size=40
    )
)
def test_every_row_is_in_one_block(
    rows: dict[bytes, bytes], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Each row is in one block, whatever the lengths and prefixes of the keys."""
    folder = write(tmp_path_factory.mktemp("lmdb") / "mine", rows)
    values: list[bytes] = []

    def put(pieces: tuple[bytes, ...]) -> int:
        values.extend(pieces)
        return 0

    for block in open_source(folder, "train").blocks():
        list(block.samples(put))
    assert sorted(values) == sorted(rows.values())


def test_files_that_are_no_tables_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that is no LMDB, and a missing package, are refused."""
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "data.mdb").write_bytes(b"no table" * 2000)
    with pytest.raises(SourceError, match="not a readable LMDB"):
        open_source(tmp_path / "bad", "train").blocks()
    monkeypatch.setattr(lsun.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(SourceError, match="EXTRAS=lsun"):
        open_source(tmp_path / "bad", "train").blocks()


def test_threads_of_a_worker_read_one_table(tmp_path: Path) -> None:
    """Threads read one table at the same time, and again after it was closed."""
    rows = hashes(400)
    blocks = open_source(write(tmp_path / "mine", rows), "train").blocks()
    assert len(blocks) > 50
    for _ in range(2):
        values: list[bytes] = []

        def put(pieces: tuple[bytes, ...], values: list[bytes] = values) -> int:
            values.extend(pieces)
            return 0

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda block: list(block.samples(put)), blocks))
        assert sorted(values) == sorted(rows.values())
    assert not lsun._tables


def test_values_that_are_no_images_are_refused_before_they_are_streamed(tmp_path: Path) -> None:
    """Caffe's records are refused; a single broken value is not."""
    write(tmp_path / "caffe", {b"%d" % k: b"\x08\x03\x10 datum" for k in range(20)})
    with pytest.raises(SourceError, match=r"not image files: the first begins with b'\\x08\\x03"):
        open_source(tmp_path / "caffe", "train").check()  # type: ignore[attr-defined]
    write(tmp_path / "mine", {b"0": b"broken", b"1": jpeg(1)})
    open_source(tmp_path / "mine", "train").check()  # type: ignore[attr-defined]
