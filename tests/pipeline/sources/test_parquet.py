"""Parquet tables, plain and as the Hub has them."""

import json
import threading
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import ReadError, SourceError
from pipeline.sources import open_source, parquet, splits
from pipeline.sources.spool import spool_block, spool_listing
from tests.pipeline.sources.layouts import made_pictures, write_parquet_hub, write_parquet_plain


def write(
    folder: Path, columns: dict, name: str = "t.parquet", metadata: dict | None = None
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns).replace_schema_metadata(metadata), folder / name)
    return folder


def keys(root: Path, split: str = "train") -> list[str]:
    blocks = open_source(root, split).blocks()
    spool = root.parent / f"{root.name}-spool"
    spool.mkdir()
    for block in blocks:
        spool_block(block, str(spool))
    return spool_listing(str(spool), blocks)["key"].to_pylist()


def hub(names: list[str]) -> dict:
    return {"huggingface": json.dumps({"info": {"features": {"label": {"names": names}}}})}


STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
BYTES = pa.array([b"1"], pa.binary())


@pytest.mark.parametrize(
    ("columns", "key"),
    [
        ({"image": BYTES, "filename": ["a.jpg"], "wnid": ["n01440764"]}, "n01440764/a.jpg"),
        ({"jpg": BYTES, "key": ["n01440764/a.jpg"]}, "n01440764/a.jpg"),
        ({"bytes": BYTES, "path": ["x/cat/a.jpg"]}, "cat/a.jpg"),
        ({"bytes": BYTES, "path": ["a.jpg"], "label": ["dog"]}, "dog/a.jpg"),
        ({"bytes": BYTES, "label": [1]}, "n02119789/t-000000000"),
        ({"odd": BYTES, "cls": [0.0]}, "dog/t-000000000"),
        ({"image": pa.array([b"1"], pa.large_binary()), "label": ["dog"], "name": ["a"]}, "dog/a"),
        ({"image": BYTES, "filename": ["a.jpg"]}, "-/a.jpg"),
        ({"image": BYTES, "filename": ["a.jpg"], "label": [-1]}, "-/a.jpg"),
        ({"image": BYTES, "filename": ["n01440764_5.JPEG"]}, "n01440764/n01440764_5.JPEG"),
    ],
)
def test_the_key_comes_from_whichever_columns_there_are(tmp_path, columns, key):
    """Names and classes as `naming` says; what has no name is counted."""
    root = write(tmp_path / "x", columns)
    (root / "classes.txt").write_text("dog\nn02119789\n")
    assert keys(root) == [key]


def test_the_hubs_imagenet_gets_imagenets_own_keys(tmp_path):
    """Its names end in the wnid again, and its classes are words."""
    paths = ["n01440764_10026_n01440764.JPEG", "ILSVRC2012_val_00000001_n01751748.JPEG"]
    images = pa.array([{"bytes": b"1", "path": path} for path in paths])
    labels = pa.array([0, 65])
    names = ["tench, Tinca tinca", *map(str, range(1, 100))]
    root = write(tmp_path / "x", {"image": images, "label": labels}, metadata=hub(names))
    assert keys(root) == [
        "n01440764/n01440764_10026.JPEG",
        "n01751748/ILSVRC2012_val_00000001.JPEG",
    ]


def test_the_schemas_own_names_go_before_a_table_beside_the_file(tmp_path):
    """The Hub keeps them in the metadata."""
    images = pa.array([{"bytes": b"1", "path": "a.jpg"}])
    columns = {"image": images, "label": pa.array([1])}
    root = write(tmp_path / "x", columns, metadata=hub(["cat", "dog"]))
    (root / "classes.txt").write_text("bird\nfish\n")
    assert keys(root) == ["dog/a.jpg"]


def test_rows_without_a_name_are_counted_through_the_file(tmp_path, monkeypatch):
    """Over row groups, so that a name does not depend on the blocks."""
    table = pa.table({"image": pa.array([b"x"] * 10), "label": ["cat"] * 10})
    (tmp_path / "x").mkdir()
    pq.write_table(table, tmp_path / "x" / "a.b.parquet", row_group_size=3)
    monkeypatch.setattr(parquet, "BLOCK_BYTES", 1)
    assert keys(tmp_path / "x") == [f"cat/a.b-{i:09d}" for i in range(10)]


def test_row_groups_are_put_together_to_blocks_of_a_good_size(tmp_path, monkeypatch):
    """Each row group is in one block; blocks have names of their own."""
    root = write_parquet_plain(tmp_path / "x", made_pictures(), row_group_size=2)
    monkeypatch.setattr(parquet, "BLOCK_BYTES", 5000)
    blocks = open_source(root, "train").blocks()
    assert len({block.name for block in blocks}) == len(blocks) > 4
    for path in ("part-0.parquet", "part-1.parquet"):
        mine = [block for block in blocks if block.path == path]
        covered = [group for b in mine for group in range(b.first, b.first + b.count)]
        assert covered == list(range(10))
        assert any(block.count > 1 for block in mine)
    assert keys(root) == sorted(made_pictures())


def test_an_image_that_is_null_is_an_empty_one(tmp_path):
    """It keeps its row and is quarantined as empty later; a table of names alone is refused."""
    image = pa.array([b"1", None], pa.binary())
    root = write(tmp_path / "x", {"image": image, "label": ["a", "a"]})
    assert keys(root) == ["a/t-000000000", "a/t-000000001"]
    image = pa.array(
        [{"bytes": None, "path": "a.jpg"}],
        pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
    )
    root = write(tmp_path / "y", {"image": image, "label": ["a"]})
    with pytest.raises(SourceError, match=r"hold no bytes of images, only their names"):
        keys(root)


def test_a_table_without_images_is_refused(tmp_path):
    """With the columns there are."""
    root = write(tmp_path / "x", {"a": [1], "b": ["x"]})
    with pytest.raises(SourceError, match=r"no column of images: .* among \['a', 'b'\]"):
        keys(root)


def test_a_damaged_file_is_named(tmp_path):
    """Its end cut off, or a page overwritten: SourceError. A disk that fails: ReadError."""
    root = write_parquet_hub(tmp_path / "x", made_pictures())
    path = next(root.rglob("*.parquet"))
    whole = path.read_bytes()
    blocks = open_source(root, "train").blocks()
    path.write_bytes(whole[:-100])
    with pytest.raises(SourceError, match=r"00001\.parquet is not a whole Parquet"):
        open_source(root, "train").blocks()
    path.write_bytes(whole[:4] + b"\xff" * 300 + whole[304:])
    with pytest.raises(SourceError, match="is not a whole Parquet file"):
        spool_block(blocks[0], str(tmp_path))
    path.unlink()
    with pytest.raises(ReadError, match=r"cannot read .*train-00000-of-00001\.parquet: No such"):
        spool_block(blocks[0], str(tmp_path))


def test_an_error_of_the_disk_in_the_middle_is_a_read_error(tmp_path, monkeypatch):
    """Through pyarrow and back."""
    import io

    from pipeline.sources.place import Place

    root = write_parquet_hub(tmp_path / "x", made_pictures())
    blocks = open_source(root, "train").blocks()

    class Broken(io.FileIO):
        def read(self, size=-1):
            if self.tell() < 2000:
                raise OSError(5, "Input/output error")
            return super().read(size)

        readall = None

    monkeypatch.setattr(Place, "open", lambda self, path, **_: Broken(self.full(path)))
    with pytest.raises(ReadError, match=r"cannot read .*parquet: Input/output error"):
        spool_block(blocks[0], str(tmp_path))


def test_a_file_is_read_by_the_thread_that_asks(tmp_path, monkeypatch):
    """Threads of Arrow's would still hold Python objects when the process ends, and abort it."""
    import io

    from pipeline.sources.place import Place

    threads = set()

    class Watched(io.FileIO):
        def read(self, size=-1):
            threads.add(threading.get_ident())
            return super().read(size)

    root = write_parquet_hub(tmp_path / "x", made_pictures())
    monkeypatch.setattr(Place, "open", lambda self, path, **_: Watched(self.full(path)))
    assert keys(root)
    assert threads == {threading.get_ident()}


def test_the_hubs_splits_are_told_from_the_files_names(tmp_path):
    """`validation-00000-of-00001.parquet` is val."""
    root = write_parquet_hub(tmp_path / "x", made_pictures())
    write(root / "data", {"image": BYTES, "label": ["cat"]}, "validation-00000-of-00001.parquet")
    assert splits(root) == ["train", "val"]
    assert keys(root, "val") == ["cat/validation-00000-of-00001-000000000"]
