"""Trees in archives give the listing of the unpacked tree, or are refused."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import SourceError
from pipeline.sources import open_source, source_splits
from pipeline.sources.archives.outline import is_image
from pipeline.sources.classes.class_order import combine_classes
from pipeline.sources.classes.evidence import Evidence
from pipeline.sources.classes.split_classes import SplitClasses
from pipeline.sources.clutter import HIDDEN, IGNORED, SYSTEM, TEXTS, UNFINISHED
from pipeline.sources.options import SourceOptions
from pipeline.sources.spool import spool_block, spool_listing
from tests.pipeline.sources.archives.test_detection import PACKED, zip_bytes
from tests.pipeline.sources.layouts import class_tars, made_pictures, tar_bytes
from tests.pipeline.sources.test_sources import read_all

VAL = "ILSVRC2012_val_{:08d}.JPEG"


def tar_at(folder: Path, members: dict[str, bytes], packing: str = "plain") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "set.tar"
    path.write_bytes(PACKED[packing](tar_bytes(members)))
    return path


def listed(path: Path, split: str = "train", **options: str) -> dict[str, bytes]:
    source = open_source(path, split, None, SourceOptions(**options))
    return read_all(source, spool_beside(path))[1]


def spool_beside(path: Path) -> Path:
    return path.parent / f"spool{len(list(path.parent.glob('spool*')))}"


def passed(path: Path, split: str = "train") -> dict[str, int]:
    source = open_source(path, split)
    if source.access == "random":
        listing = source.list(lambda num_new: None)
    else:
        spool, blocks = spool_beside(path), source.blocks()
        for block in blocks:
            spool_block(block, str(spool))
        listing = spool_listing(str(spool), blocks)
    evidence = Evidence.decode(listing.schema.metadata)
    return {why: seen.count for why, seen in evidence.skipped.items()}


def test_images_beside_the_class_folders_and_other_files_are_counted(tmp_path):
    """Images beside the class folders and other files are counted by ground."""
    path = tar_at(
        tmp_path,
        {
            "set/cat/a.jpg": b"1",
            "loose.jpg": b"2",
            "set/readme.txt": b"3",
            "set/cat/a.xml": b"4",
            "set/cat/.hidden.jpg": b"5",
            "__MACOSX/set/cat/._a.jpg": b"6",
            "set/dog/b.jpg": b"7",
            "set/dog/b.jpg~": b"8",
        },
    )
    assert listed(path) == {"cat/a.jpg": b"1", "dog/b.jpg": b"7"}
    assert passed(path) == {
        "images outside of the class folders": 1,
        TEXTS: 1,
        HIDDEN: 1,
        SYSTEM: 1,
        UNFINISHED: 1,
    }


def test_ignored_names_are_ignored_in_archives_too(tmp_path):
    """Ignored members are counted in trees, class tars and shards."""
    members = {"cat/a.jpg": b"1", "cat/a_mask.png": b"2", "masks/a.jpg": b"3", "dog/b.jpg": b"4"}
    path = tar_at(tmp_path, members)
    options = SourceOptions(ignore=("masks", "*_mask.png"))
    listing = open_source(path, "train", None, options).list(lambda num_new: None)
    assert listing["key"].to_pylist() == ["cat/a.jpg", "dog/b.jpg"]
    assert Evidence.decode(listing.schema.metadata).skipped[IGNORED].count == 2
    inner = tar_bytes({"a.jpg": b"1", "a_mask.png": b"2"})
    outer = tar_at(tmp_path / "y", {"cat.tar": inner})
    assert open_source(outer, "train", None, options).list(print)["key"].to_pylist() == [
        "cat/a.jpg"
    ]
    shard = tar_at(tmp_path / "z", {"1.jpg": b"1", "1.cls": b"0", "1_mask.png": b"2"})
    assert open_source(shard, "train", None, options).list(print)["key"].to_pylist() == ["0/1.jpg"]


def test_images_outside_of_the_splits_are_counted(tmp_path):
    """Images outside of all splits are counted; those of another split are not."""
    path = tar_at(
        tmp_path, {"train/cat/a.jpg": b"1", "val/cat/b.jpg": b"2", "extra/cat/c.jpg": b"3"}
    )
    assert listed(path) == {"cat/a.jpg": b"1"}
    assert passed(path) == passed(path, "val") == {"images outside of the splits' folders": 1}


@pytest.mark.parametrize("split", ["", "train/"])
def test_nested_folders_are_refused_or_read_with_recursive(tmp_path, split):
    """The innermost folders alone would merge two folders of one name into one class."""
    path = tar_at(
        tmp_path,
        {
            f"{split}cat/side/1.jpg": b"1",
            f"{split}dog/side/1.jpg": b"2",
            f"{split}dog/front/1.jpg": b"3",
        },
    )
    for recursive in ("first", "last"):
        source = open_source(path, "train", options=SourceOptions(recursive=recursive))
        evidence = Evidence.decode(source.list(lambda num_new: None).schema.metadata)
        assert combine_classes({"train": SplitClasses(evidence)}).names  # no further question
    with pytest.raises(SourceError, match=r"which folder is the class\? Pass --recursive first"):
        listed(path)
    assert listed(path, recursive="first") == {
        "cat/side__1.jpg": b"1",
        "dog/side__1.jpg": b"2",
        "dog/front__1.jpg": b"3",
    }
    assert listed(path, recursive="last") == {
        "side/cat__1.jpg": b"1",
        "side/dog__1.jpg": b"2",
        "front/dog__1.jpg": b"3",
    }


def test_a_class_folder_has_at_most_one_folder_called_images(tmp_path):
    """The class folder may hold one folder `images`, as in Tiny-ImageNet, but not two."""
    assert listed(tar_at(tmp_path / "x", {"cat/images/1.jpg": b"1"})) == {"cat/1.jpg": b"1"}
    with pytest.raises(SourceError, match=r"folders 'cat/images', .*: which folder is the class"):
        listed(tar_at(tmp_path / "y", {"cat/images/images/1.jpg": b"1"}))


def test_two_folders_of_one_split_are_refused_in_an_archive_too(tmp_path):
    """Two folders of one split, as in a cross-validation, are refused."""
    members = {"fold1/train/cat/1.jpg": b"1", "fold2/train/cat/2.jpg": b"2"}
    with pytest.raises(SourceError, match="two folders of the split 'train': 'fold1/train' and 'f"):
        listed(tar_at(tmp_path / "x", members))
    members = {"set/train/cat/1.jpg": b"1", "notes/train/cat/1.txt": b"2"}
    assert listed(tar_at(tmp_path / "y", members)) == {"cat/1.jpg": b"1"}


def test_class_folders_at_two_depths_are_refused(tmp_path):
    """Class folders at two depths are refused, even where the first members show only one."""
    members = {f"set/cat/{i}.jpg": b"1" for i in range(70)} | {"dog/1.jpg": b"2"}
    with pytest.raises(SourceError, match=r"'dog/1\.jpg' lies in the folders 'dog', and others in"):
        listed(tar_at(tmp_path, members))


def test_a_split_behind_other_members_is_no_class_folder(tmp_path):
    """A split behind members without splits is refused: train and val would be one."""
    members = {f"a/cat/{i}.jpg": b"1" for i in range(70)} | {"a/val/cat/x.jpg": b"2"}
    with pytest.raises(SourceError, match=r"lies in a folder of the split 'val'"):
        listed(tar_at(tmp_path, members))
    members = {f"n01440764/{i}.jpg": b"1" for i in range(70)} | {f"val/{VAL.format(1)}": b"2"}
    with pytest.raises(SourceError, match=r"lies in a folder of the split 'val'"):
        listed(tar_at(tmp_path / "y", members))


def test_a_flat_split_needs_a_table_or_a_class_name_or_is_a_test_split(tmp_path):
    """A flat split needs a table or --class-name, unless it is a test split."""
    members = {"train/cat/a.jpg": b"1", "val/b.jpg": b"2", "test/c.jpg": b"3"}
    path = tar_at(tmp_path, members)
    assert source_splits(path) == ["test", "train", "val"]
    assert listed(path, "test") == {"-/c.jpg": b"3"}
    with pytest.raises(SourceError, match=r"image 'b\.jpg' lies directly in"):
        listed(path, "val")
    assert listed(path, "val", class_name="cat") == {"cat/b.jpg": b"2"}
    flat = tar_at(tmp_path / "flat", {"train/a.jpg": b"1", "test/b.jpg": b"2"})
    assert source_splits(flat) == ["test", "train"]
    with pytest.raises(SourceError, match="lies directly in the folder of the split"):
        listed(flat)


def kaggle(*, annotated: bool) -> dict[str, bytes]:
    data = "ILSVRC/Data/CLS-LOC"
    members = {f"ILSVRC/Annotations/CLS-LOC/train/n01440764/{i}.xml": b"<a/>" for i in range(70)}
    if annotated:
        members |= {
            f"ILSVRC/Annotations/CLS-LOC/val/ILSVRC2012_val_{i:08d}.xml": (
                b"<object><name>%s</name></object>" % wnid * 2
            )
            for i, wnid in enumerate([b"n01443537", b"n01440764"], 1)
        }
    members |= {f"{data}/train/n01440764/n01440764_{i}.JPEG": b"%d" % i for i in range(2)}
    return members | {f"{data}/val/{VAL.format(i)}": b"v%d" % i for i in (1, 2)}


@pytest.mark.parametrize("packing", PACKED)
def test_the_classes_of_kaggles_val_come_from_its_annotations(tmp_path, packing):
    """The annotations of Kaggle's archive precede its val images and tell their classes."""
    path = tar_at(tmp_path, kaggle(annotated=True), packing)
    assert listed(path, "val") == {
        f"n01443537/{VAL.format(1)}": b"v1",
        f"n01440764/{VAL.format(2)}": b"v2",
    }


@pytest.mark.parametrize("packing", ["plain", "gz"])
def test_kaggles_val_without_classes_is_refused_before_it_is_streamed(tmp_path, packing):
    """Without annotations, a table beside the archive tells the classes of val."""
    path = tar_at(tmp_path, kaggle(annotated=False), packing)
    source = open_source(path, "val")
    with pytest.raises(SourceError, match=r"no classes: .*LOC_val_solution\.csv, next to them"):
        source.check()
    assert sorted(listed(path)) == [f"n01440764/n01440764_{i}.JPEG" for i in range(2)]
    rows = "".join(f"ILSVRC2012_val_{i:08d},n0144{i}537 1 2 3 4\n" for i in (1, 2))
    (tmp_path / "LOC_val_solution.csv").write_text(f"ImageId,PredictionString\n{rows}")
    assert sorted(listed(path, "val")) == [f"n0144{i}537/{VAL.format(i)}" for i in (1, 2)]


def test_ilsvrcs_val_images_are_detected_under_any_name_of_the_tar(tmp_path):
    """A tar of flat val images is detected under any name, and is no shard."""
    rows = "".join(f"ILSVRC2012_val_{i:08d},n01443537 1 2 3 4\n" for i in range(3))
    (tmp_path / "LOC_val_solution.csv").write_text(f"ImageId,PredictionString\n{rows}")
    members = {VAL.format(i): b"%d" % i for i in range(3)} | {"readme": b"x"}
    path = tar_at(tmp_path, members)
    assert open_source(path, "val").kind == "ilsvrc-val"
    assert sorted(listed(path, "val")) == [f"n01443537/{VAL.format(i)}" for i in range(3)]
    assert passed(path, "val") == {"files that are no images of ILSVRC2012's val": 1}


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["train.tar", "val.tar"], r"'train\.tar' has the name of a split"),
        (["ILSVRC2012_img_val.tar"], r"has the name of a split"),
        (["train/cat.tar", "val/cat.tar"], r"'val/cat\.tar' lies in a folder of one of several"),
        (["cat.tar", "dog.tar.gz"], r"'dog\.tar\.gz' is compressed"),
    ],
)
def test_inner_tars_that_are_no_classes_are_refused(tmp_path, names, message):
    """Inner tars of a split, of several splits, or with a compression are refused."""
    inner = tar_bytes({"a.jpg": b"1"})
    with pytest.raises(SourceError, match=message):
        listed(tar_at(tmp_path, dict.fromkeys(names, inner)))


def test_members_beside_class_tars_are_counted(tmp_path):
    """Members beside class tars are counted, and an archive inside a class tar is refused."""
    tars = class_tars(made_pictures())
    path = tar_at(tmp_path, {"readme.txt": b"x", "photo.jpg": b"y", **tars})
    assert passed(path) == {"members that are no class tars": 2}
    inner = tar_bytes({"a.jpg": b"1", "more.tar": tar_bytes({"b.jpg": b"2"})})
    with pytest.raises(SourceError, match=r"'more\.tar' is an archive inside that of the class"):
        listed(tar_at(tmp_path / "y", {"cat.tar": inner}))


parts = st.sampled_from(["cat", "dog", "a b", "train", "val", "n01440764", "images", ".git"])
trees = st.dictionaries(
    st.tuples(
        st.lists(parts, min_size=0, max_size=3).map("/".join),
        st.sampled_from(["1.jpg", "2.JPEG", "3", "4.txt", "5.xml", ".6.jpg"]),
    ).map(lambda pair: "/".join(part for part in pair if part)),
    st.binary(max_size=30),
    min_size=1,
    max_size=8,
).filter(lambda tree: not any(name.startswith("images/") for name in tree))


def images_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def pack(path: Path, members: dict[str, bytes], packing: str) -> None:
    """Write an archive, a tar in two pieces, each with its own end."""
    if packing == "zip":
        path.write_bytes(zip_bytes(members))
        return
    items = list(members.items())
    pieces = [dict(items[: len(items) // 2]), dict(items[len(items) // 2 :])]
    path.write_bytes(b"".join(PACKED[packing](tar_bytes(piece)) for piece in pieces if piece))


def is_of_its_class(key: str, content: bytes, split: str, files: dict[str, bytes]) -> bool:
    """Return True if a file of this content and name lies in a folder that *key* may stand for."""
    class_name, file_name = key.split("/")
    return any(
        data == content
        and name.rpartition("/")[2] == file_name
        and [part for part in name.split("/")[:-1] if part != "images"][-1:]
        in ([class_name], [split], [])
        for name, data in files.items()
    )


@pytest.mark.parametrize("beside", ["cat/1.jpg", "cat/images/1.jpg"])
@pytest.mark.parametrize("packing", ["plain", "gz"])
def test_a_folder_of_images_below_the_name_of_a_split_is_refused_beside_classes(
    tmp_path, beside, packing
):
    """Unpacked, the folder is the split, and its images have the class `images`."""
    path = tar_at(tmp_path, {beside: b"1", "train/images/1.jpg": b"2"}, packing)
    with pytest.raises(SourceError, match=r"'train' may be a split, or a class\. Unpack"):
        listed(path)
    with pytest.raises(SourceError):  # alone it is no class, but the folder of the split
        listed(tar_at(tmp_path / "alone", {"train/images/1.jpg": b"2"}, packing))


@settings(max_examples=min(60, settings().max_examples))
@given(tree=trees, data=st.data())
def test_a_packed_tree_is_listed_as_the_unpacked_one_or_refused(tmp_path_factory, tree, data):
    """Each key of a packed tree leads to a file of its class and name; splits stay apart."""
    root = tmp_path_factory.mktemp("x")
    prefix = data.draw(st.sampled_from(["", "./", "set/", "a/set/", "../x/"]))
    order = data.draw(st.permutations(list(tree)))
    path = root / "set.tar"
    packing = data.draw(st.sampled_from([*PACKED, "zip"]))
    pack(path, {f"{prefix}{name}": tree[name] for name in order}, packing)
    try:
        seen = {split: listed(path, split) for split in source_splits(path) or ["train"]}
    except SourceError:
        return
    for name, content in tree.items():
        (root / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "tree" / name).write_bytes(content)
    files = images_of(root / "tree")
    for split, rows in seen.items():
        assert all(is_of_its_class(key, data, split, files) for key, data in rows.items())
    if any("out" in why for split in seen for why in passed(path, split)):
        return  # counted: which of the folders is meant, the two may see otherwise
    if all("/" not in name for name in tree if is_image(name)):
        return  # a folder in the archive is its one class; without it there is none
    try:
        folder = {split: listed(root / "tree", split) for split in seen}
    except SourceError:
        return
    assert seen == folder
