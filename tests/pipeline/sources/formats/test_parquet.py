"""Parquet tables, plain and in the Hub's layout."""

import io
import json
import threading
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import ReadError, SourceError
from pipeline.sources import open_source, source_splits
from pipeline.sources.formats import parquet
from pipeline.sources.location import Location
from pipeline.sources.options import SourceOptions
from pipeline.sources.spool import spool_block, spool_listing
from tests.pipeline.sources.layouts import (
    made_pictures,
    tar_bytes,
    write_parquet_hub,
    write_parquet_plain,
)
from tests.pipeline.sources.test_sources import read_all


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
def test_the_key_comes_from_the_columns_that_exist(tmp_path, columns, key):
    """The columns of names and labels make the key; a row without a name gets its number."""
    root = write(tmp_path / "x", columns)
    (root / "classes.txt").write_text("dog\nn02119789\n")
    assert keys(root) == [key]


@pytest.mark.parametrize(
    "image", [pa.binary(), pa.binary_view(), pa.dictionary(pa.int32(), pa.binary())], ids=str
)
@pytest.mark.parametrize("label", [pa.string_view(), pa.large_string(), pa.binary()], ids=str)
def test_arrows_other_types_of_bytes_and_texts_are_read(tmp_path, image, label):
    """Views, and dictionaries of repeated images, are read."""
    columns = {"image": pa.array([b"1", b"22"] * 2).cast(pa.binary()), "name": list("abcd")}
    columns["image"] = columns["image"].cast(image) if image != pa.binary() else columns["image"]
    columns["label"] = pa.array(["dog", "cat"] * 2).cast(label)
    root = write(tmp_path / "x", columns)
    blocks = open_source(root, "train").blocks()
    spool_block(blocks[0], str(tmp_path))
    listing = spool_listing(str(tmp_path), blocks).to_pydict()
    assert listing["key"] == ["cat/b", "cat/d", "dog/a", "dog/c"]
    assert listing["num_bytes"] == [2, 2, 1, 1]


@pytest.mark.parametrize("suffix", ["parquet", "tar"])
def test_a_missing_file_of_a_numbered_set_is_reported(tmp_path, suffix):
    """A missing file of a numbered set is named, and other splits are not affected."""
    for name in ("train-00000-of-00003", "train-00002-of-00003", "test-00000-of-00001"):
        if suffix == "tar":
            shard = tar_bytes({f"{name}.jpg": b"1"})
            (tmp_path / f"{name}.tar").write_bytes(shard)
        else:
            write(tmp_path, {"image": BYTES, "name": [name]}, f"{name}.parquet")

    def look(split: str, **how: object) -> None:
        source = open_source(tmp_path, split, options=SourceOptions(**how))
        source.list(lambda num_new: None) if source.access == "random" else source.blocks()

    look("test")
    missing = rf"2 of the 3 files .* imply: train-00001-of-00003\.{suffix} is missing"
    with pytest.raises(SourceError, match=missing):
        look("train")
    look("train", ignore=("train-00001-*",))
    open_source(tmp_path / f"train-00000-of-00003.{suffix}", "train")


def test_the_hubs_converted_files_are_found_in_their_configuration(tmp_path):
    """The Hub's `default/train/0000.parquet` is found; several configurations are refused."""
    for configuration in ("default", "fine"):
        root = write(tmp_path / "x" / configuration / "train", {"image": BYTES}, "0000.parquet")
        if configuration == "default":
            assert source_splits(tmp_path / "x") == ["train"]
            assert len(open_source(tmp_path / "x", "train").blocks()) == 1
    with pytest.raises(SourceError, match=r"holds 2 tables of one set \(default, fine\)"):
        open_source(tmp_path / "x", "train")
    assert len(open_source(root.parent, "train").blocks()) == 1


def test_tables_of_img2dataset_beside_shards_are_no_source(tmp_path):
    """A table without images, named after a shard, is no source."""
    write(tmp_path, {"url": ["a"], "caption": ["b"]}, "00000.parquet")
    (tmp_path / "00000.tar").write_bytes(tar_bytes({"0.jpg": b"1", "0.txt": b"b"}))
    assert open_source(tmp_path, "train").kind == "webdataset"


def test_the_hubs_imagenet_gets_imagenets_own_keys(tmp_path):
    """The wnid at the end of the Hub's names is removed, and its classes have words."""
    paths = ["n01440764_10026_n01440764.JPEG", "ILSVRC2012_val_00000001_n01751748.JPEG"]
    images = pa.array([{"bytes": b"1", "path": path} for path in paths])
    labels = pa.array([0, 65])
    names = ["tench, Tinca tinca", *map(str, range(1, 100))]
    root = write(tmp_path / "x", {"image": images, "label": labels}, metadata=hub(names))
    assert keys(root) == [
        "n01440764/n01440764_10026.JPEG",
        "n01751748/ILSVRC2012_val_00000001.JPEG",
    ]


def test_names_in_the_schema_precede_a_table_beside_the_file(tmp_path):
    """Class names in the schema's metadata take precedence over a table beside the file."""
    images = pa.array([{"bytes": b"1", "path": "a.jpg"}])
    columns = {"image": images, "label": pa.array([1])}
    root = write(tmp_path / "x", columns, metadata=hub(["cat", "dog"]))
    (root / "classes.txt").write_text("bird\nfish\n")
    assert keys(root) == ["dog/a.jpg"]


def test_rows_without_a_name_are_numbered_through_the_file(tmp_path, monkeypatch):
    """Rows without a name are numbered through the whole file, whatever the blocks."""
    table = pa.table({"image": pa.array([b"x"] * 10), "label": ["cat"] * 10})
    (tmp_path / "x").mkdir()
    pq.write_table(table, tmp_path / "x" / "a.b.parquet", row_group_size=3)
    monkeypatch.setattr(parquet, "BLOCK_BYTES", 1)
    assert keys(tmp_path / "x") == [f"cat/a.b-{i:09d}" for i in range(10)]


def test_batches_without_columns_are_as_small_as_others(tmp_path, monkeypatch):
    """A row group may have millions of rows."""
    monkeypatch.setattr(parquet, "_PREVIEW_ROWS", 4)
    (tmp_path / "x").mkdir()
    pq.write_table(pa.table({"image": pa.array([b"x"] * 10)}), tmp_path / "x" / "a.parquet")
    (block,) = open_source(tmp_path / "x", "train").blocks()
    assert [len(batch) for batch, _ in block.batches(images=False)] == [4, 4, 2]


def test_row_groups_are_joined_into_large_blocks(tmp_path, monkeypatch):
    """Each row group is in exactly one block, and each block has a unique name."""
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


def test_a_null_image_is_an_empty_sample(tmp_path):
    """A null image keeps its row, as an empty sample; a table of names alone is refused."""
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
    """The error lists the columns of a table without images."""
    root = write(tmp_path / "x", {"a": [1], "b": ["x"]})
    with pytest.raises(SourceError, match=r"no column of images: .* among 'a': int64, 'b': str"):
        keys(root)


def test_a_damaged_file_is_named(tmp_path):
    """A damaged file raises SourceError, and a failing disk raises ReadError."""
    root = write_parquet_hub(tmp_path / "x", made_pictures())
    path = next(root.rglob("*.parquet"))
    data = path.read_bytes()
    blocks = open_source(root, "train").blocks()
    path.write_bytes(data[:-100])
    with pytest.raises(SourceError, match=r"00001\.parquet is not a complete Parquet"):
        open_source(root, "train").blocks()
    path.write_bytes(data[:4] + b"\xff" * 300 + data[304:])
    with pytest.raises(SourceError, match="is not a complete Parquet file"):
        spool_block(blocks[0], str(tmp_path))
    path.unlink()
    with pytest.raises(ReadError, match=r"cannot read .*train-00000-of-00001\.parquet: No such"):
        spool_block(blocks[0], str(tmp_path))


def test_an_error_of_the_disk_in_the_middle_is_a_read_error(tmp_path, monkeypatch):
    """An error of the disk passes through pyarrow as a ReadError."""
    root = write_parquet_hub(tmp_path / "x", made_pictures())
    blocks = open_source(root, "train").blocks()

    class Broken(io.FileIO):
        def read(self, size=-1):
            if self.tell() < 2000:
                raise OSError(5, "Input/output error")
            return super().read(size)

        readall = None

    monkeypatch.setattr(Location, "open", lambda self, path, **_: Broken(self.full_path(path)))
    with pytest.raises(ReadError, match=r"cannot read .*parquet: Input/output error"):
        spool_block(blocks[0], str(tmp_path))


def test_a_file_is_read_by_the_calling_thread(tmp_path, monkeypatch):
    """Arrow's threads are not used, since they would abort the process at its end."""
    threads = set()

    class Watched(io.FileIO):
        def read(self, size=-1):
            threads.add(threading.get_ident())
            return super().read(size)

    root = write_parquet_hub(tmp_path / "x", made_pictures())
    monkeypatch.setattr(Location, "open", lambda self, path, **_: Watched(self.full_path(path)))
    assert keys(root)
    assert threads == {threading.get_ident()}


def test_the_hubs_splits_are_found_in_file_names(tmp_path):
    """The file `validation-00000-of-00001.parquet` is of the split val."""
    root = write_parquet_hub(tmp_path / "x", made_pictures())
    write(root / "data", {"image": BYTES, "label": ["cat"]}, "validation-00000-of-00001.parquet")
    assert source_splits(root) == ["train", "val"]
    assert keys(root, "val") == ["cat/validation-00000-of-00001-000000000"]


def hub_table(column: str, image: str, labels: list[object], names: list[str]) -> pa.Table:
    images = pa.array(
        [{"bytes": b"%d" % i, "path": f"{i}.png"} for i in range(len(labels))],
        pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
    )
    table = pa.table({image: images, column: pa.array(labels)})
    features = {"info": {"features": {column: {"names": names, "_type": "ClassLabel"}}}}
    return table.replace_schema_metadata({"huggingface": json.dumps(features)})


def put_table(root: Path, table: pa.Table, name: str = "t.parquet") -> Path:
    root.mkdir(exist_ok=True)
    pq.write_table(table, root / name, row_group_size=2)
    return root


@pytest.mark.parametrize("image", ["image", "img", "jpg", ".jpg", "Image", "picture", "odd name"])
@pytest.mark.parametrize("label", ["label", "fine_label", "cls", ".cls", "Label", "coarse_label"])
def test_the_hubs_column_names_are_recognised(tmp_path, image, label):
    """The names img (CIFAR-10), fine_label (CIFAR-100), .jpg and .cls (shards) are found."""
    root = put_table(tmp_path / "x", hub_table(label, image, [0, 1, 0], ["cat", "dog"]))
    assert keys(root) == ["cat/0.png", "cat/2.png", "dog/1.png"]


def test_columns_are_named_by_options(tmp_path):
    """Options select columns among several or of other names; an unknown name is refused."""
    table = hub_table("fine_label", "img", [0, 1], ["cat", "dog"])
    table = table.append_column("coarse_label", pa.array(["pet", "pet"]))
    table = table.append_column("thumbnail", pa.array([b"t", b"t"], pa.binary()))
    table = table.append_column("file", pa.array(["x.png", "y.png"]))
    root = put_table(tmp_path / "x", table)
    assert keys(root) == ["cat/0.png", "dog/1.png"]
    options = {"label_column": "coarse_label", "name_column": "file", "image_column": "thumbnail"}
    source = open_source(root, "train", None, SourceOptions(**options))
    assert sorted(read_all(source, tmp_path / "s1")[1].items()) == [
        ("pet/x.png", b"t"),
        ("pet/y.png", b"t"),
    ]
    for option in options:
        source = open_source(root, "train", None, SourceOptions(**{option: "nosuch"}))
        flag = f"--{option.replace('_', '-')}"
        with pytest.raises(SourceError, match=f"no column 'nosuch', which {flag} names"):
            source.blocks()
    source = open_source(root, "train", None, SourceOptions(image_column="coarse_label"))
    with pytest.raises(SourceError, match="the column 'coarse_label' holds string: expected the b"):
        source.blocks()
    assert open_source(root, "train").preview().notes == [
        "columns: images 'img', labels 'fine_label' (--label-column for 'coarse_label'), names None"
    ]


def test_rows_of_equal_names_get_numbers(tmp_path):
    """Rows of equal names get numbers, and keep their labels; unique names are kept."""
    table = hub_table("label", "image", [0, 1, 0, 0], ["cat", "dog"])
    paths = pa.array(["image.png", "image.png", "image.png", "own.png"])
    root = put_table(tmp_path / "x", table.append_column("filename", paths))
    _, read = read_all(open_source(root, "train"), tmp_path / "spool")
    assert read == {
        "cat/t-000000000": b"0",
        "cat/t-000000002": b"2",
        "cat/own.png": b"3",
        "dog/image.png": b"1",
    }


def test_a_file_that_was_copied_is_refused(tmp_path):
    """A copied file is refused with both names, since its rows would count twice."""
    table = hub_table("label", "image", [0, 1, 0], ["cat", "dog"])
    for name in ("a.parquet", "a (1).parquet"):
        root = put_table(tmp_path / "x", table, name)
    with pytest.raises(SourceError, match=r"key 'cat/0\.png': '.*a( \(1\))?\.parquet' and '.*a"):
        keys(root)


def test_a_class_with_a_slash_is_usable(tmp_path):
    """A slash in a class's name is replaced in the key, and kept in the words."""
    names = ["T - shirt / top", "Coat"]
    root = put_table(tmp_path / "x", hub_table("label", "image", [0, 1], names))
    assert keys(root) == ["Coat/1.png", "T - shirt _ top/0.png"]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 5], r"row 1 \('1\.png'\) has the label 5, and the column .* has 2 classes"),
        ([[0], [1]], r"the column 'label' holds list<.*>: expected one number or one name"),
        (["cat", "bird"], r"label 'bird' is none of the 2 classes"),
        ([0.5, 1.0], r"has the label 0\.5: expected a whole number"),
    ],
)
def test_an_invalid_label_is_refused_before_an_image_is_read(tmp_path, labels, message):
    """The schema, or a pass over labels and names, shows a wrong label."""
    root = put_table(tmp_path / "x", hub_table("label", "image", labels, ["cat", "dog"]))
    source = open_source(root, "train")
    with pytest.raises(SourceError, match=message):
        source.preview()


def test_an_invalid_name_is_refused_before_an_image_is_read(tmp_path):
    """The error names the row, and the preview of valid rows equals the listing."""
    table = hub_table("label", "image", [0, 1, 1], ["cat", "dog"])
    good = put_table(tmp_path / "x", table)
    preview = open_source(good, "train").preview()
    assert {(name, seen.count) for name, _, seen in preview.items()} == {("cat", 1), ("dog", 2)}
    bad = table.append_column("filename", pa.array(["a.png", "b\tc.png", "d.png"]))
    with pytest.raises(SourceError, match=r"'dog/b\\tc\.png', of row 1 of .*t\.parquet, cannot be"):
        open_source(put_table(tmp_path / "y", bad), "train").preview()


def test_a_preview_reads_no_image(tmp_path, monkeypatch):
    """A preview does not read the bytes of images, which would take hours."""
    table = pa.table({"image": [bytes(200_000)] * 20, "filename": [f"{i}.png" for i in range(20)]})
    root = put_table(tmp_path / "x", table.append_column("label", pa.array(["cat"] * 20)))
    num_read = 0

    class Counting(io.FileIO):
        def read(self, size=-1):
            nonlocal num_read
            data = super().read(size)
            num_read += len(data)
            return data

        readall = None

    def counting(self, path, *, start=0, stop=None):
        return Counting(self.full_path(path))

    monkeypatch.setattr(Location, "open", counting)
    open_source(root, "train").preview()
    assert 0 < num_read < 1_000_000  # of 4 MB, most of it the table of columns, at 64 kB a look


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a Git LFS pointer"),
        (b"<!DOCTYPE html><title>Sign in</title>", "an HTML page"),
        (b"", "it is empty"),
        (b"PAR1" + bytes(5000), "its 5,004 bytes end without the table .* was cut off"),
        (b"\x89PNG" + bytes(50), "of no known kind"),
    ],
)
def test_other_content_in_place_of_a_parquet_file_is_named(tmp_path, data, message):
    """The error names a pointer, a page, or a truncated download."""
    write_parquet_hub(tmp_path / "x", made_pictures())
    (tmp_path / "x" / "data" / "train-late.parquet").write_bytes(data)
    source = open_source(tmp_path / "x", "train")
    for look in (source.blocks, source.preview):
        with pytest.raises(
            SourceError, match=f"train-late.parquet is not a complete Parquet file: .*{message}"
        ):
            look()


@pytest.mark.parametrize("level", ["", "default", "default/partial-train"])
def test_a_partly_converted_split_of_the_hub_is_that_split(tmp_path, level):
    """The folder `partial-train` is the split train, and a remark says that it is a part."""
    columns = {"image": BYTES, "label": pa.array([0])}
    write(tmp_path / "x/default/partial-train", columns, "0000.parquet")
    root = tmp_path / "x" / level
    for split in ("train", "partial-train"):
        source = open_source(root, split)
        assert len(source.blocks()) == 1
        assert source.remarks() == (
            "partial-train/ holds only a part of the split: the Hub did not convert the rest",
        )
    if level != "default/partial-train":
        assert source_splits(root) == ["train"]
        with pytest.raises(SourceError, match="no split 'val': it holds train"):
            open_source(root, "val")
    write(tmp_path / "x/default/train", columns, "0000.parquet")
    if level == "default":
        with pytest.raises(
            SourceError, match="2 folders of the split 'train': partial-train, train"
        ):
            open_source(root, "train")


def test_a_split_in_several_parts_is_one(tmp_path):
    """The folders `train-part0` and `train-part1`, for over 10,000 files, are one split."""
    for part in range(2):
        columns = {"image": BYTES, "key": [f"{part}.jpg"], "label": ["cat"]}
        write(tmp_path / f"x/default/train-part{part}", columns, "0000.parquet")
    assert source_splits(tmp_path / "x") == ["train"]
    assert keys(tmp_path / "x") == ["cat/0.jpg", "cat/1.jpg"]
    assert open_source(tmp_path / "x", "train").remarks() == ()
