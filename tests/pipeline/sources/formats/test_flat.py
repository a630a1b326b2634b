"""Images in one folder without classes: of no class, of a named one, or refused."""

from pathlib import Path

import pytest

from pipeline.errors import SourceError
from pipeline.sources import open_source, source_splits, unlabelled_test_remark
from pipeline.sources.classes.class_order import combine_classes
from pipeline.sources.classes.evidence import Evidence
from pipeline.sources.classes.split_classes import SplitClasses
from pipeline.sources.options import SourceOptions
from tests.pipeline.sources.layouts import write_folder


def keys(root: Path, split: str = "train", **how: object) -> list[str]:
    source = open_source(root, split, options=SourceOptions(**how))
    return source.list(lambda num_new: None)["key"].to_pylist()


def files(root: Path, *names: str) -> Path:
    return write_folder(root, dict.fromkeys(names, b"x"))


def test_a_flat_folder_is_a_source_of_no_class_or_of_one(tmp_path):
    """A flat folder needs no class; a file without a suffix is an image, a text file is not."""
    root = files(tmp_path / "photos", "a.jpg", "b", "c.txt")
    assert open_source(root, "train").kind == "flat"
    assert source_splits(root) == []
    assert keys(root) == ["-/a.jpg", "-/b"]
    assert keys(root, class_name="cat") == ["cat/a.jpg", "cat/b"]
    assert keys(root, class_name="-") == ["-/a.jpg", "-/b"]


def test_one_class_folder_alone_is_of_its_own_class(tmp_path):
    """A single class folder has the class of its wnid, or of the name that is passed."""
    root = files(tmp_path / "n01440764", "ILSVRC2012_val_00000293.JPEG", "n01440764_1.JPEG")
    assert [key.partition("/")[0] for key in keys(root)] == ["n01440764"] * 2
    root = files(tmp_path / "dogs", "ILSVRC2012_val_00000293.JPEG")
    with pytest.raises(
        SourceError, match=r"have no classes: .*not found.* with --class-name; - for"
    ):
        keys(root)
    assert keys(root, class_name="dog") == ["dog/ILSVRC2012_val_00000293.JPEG"]


def test_a_class_folder_may_hold_a_single_val_image(tmp_path):
    """The name of a class folder tells its class, unless it is that of a split."""
    root = files(tmp_path, "dog/ILSVRC2012_val_00000293.JPEG", "cat/ILSVRC2012_val_00000001.JPEG")
    assert keys(root) == [
        "cat/ILSVRC2012_val_00000001.JPEG",
        "dog/ILSVRC2012_val_00000293.JPEG",
    ]


def test_images_in_folders_beside_flat_images_need_an_option(tmp_path):
    """Images in nested folders are refused, taken with --recursive, or left out with --ignore."""
    root = files(tmp_path, "a.jpg", "2019/b.txt", "2019/may/b.jpg")
    with pytest.raises(SourceError, match=r"'2019/may' in it holds 1 files .b\.jpg. that would"):
        keys(root)
    assert keys(root, ignore=("20*",)) == ["-/a.jpg"]
    assert keys(root, recursive="last", class_name="mine") == [
        "mine/2019__may__b.jpg",
        "mine/a.jpg",
    ]


def test_flat_split_folders_are_refused_without_a_class_name(tmp_path):
    """Flat folders called train and test are splits, not classes, and need a class name."""
    root = files(tmp_path, "train/cat.0.jpg", "train/dog.1.jpg", "test/1.jpg")
    assert source_splits(root) == ["test", "train"]
    for split in ("train", "test"):
        with pytest.raises(SourceError, match=rf"{split} lie in no class folder: .*--class-name -"):
            keys(root, split)
    assert keys(root, "train", class_name="-") == ["-/cat.0.jpg", "-/dog.1.jpg"]
    assert keys(root, "test", class_name="pet") == ["pet/1.jpg"]
    assert keys(root / "train") == ["-/cat.0.jpg", "-/dog.1.jpg"]


def test_an_unlabelled_test_split_beside_labelled_ones_is_opened_on_request(tmp_path):
    """A val split without class folders is not opened without labels."""
    root = files(tmp_path, "train/cat/0.jpg", "test/1.jpg", "val/2.jpg")
    assert source_splits(root) == ["train"]
    assert keys(root, "test") == ["-/1.jpg"]
    with pytest.raises(SourceError, match="val lie in no class folder"):
        keys(root, "val")


def test_kaggles_test_images_have_no_label(tmp_path):
    """Kaggle's 100,000 test images are opened only on request."""
    base = "ILSVRC/Data/CLS-LOC"
    root = files(tmp_path, f"{base}/train/n01440764/a.JPEG", f"{base}/test/ILSVRC2012_test_1.JPEG")
    assert source_splits(root) == ["train"]
    assert keys(root, "test") == ["-/ILSVRC2012_test_1.JPEG"]


@pytest.mark.parametrize("base", ["ILSVRC/Data/CLS-LOC/", ""])
def test_a_flat_test_split_that_is_left_out_is_counted(tmp_path, base):
    """The remark on an unlabelled test split says how to add it."""
    names = [f"{base}test/ILSVRC2012_test_{k}.JPEG" for k in range(3)]
    root = files(tmp_path, f"{base}train/n01440764/a.JPEG", *names)
    remark = unlabelled_test_remark(root)
    assert remark.startswith(
        f"split test is skipped: 3 images without a class directly in {root / base}"
    )
    listing = open_source(root, "train").list(lambda num_new: None)
    assert Evidence.decode(listing.schema.metadata).skipped == {}
    assert unlabelled_test_remark(files(tmp_path / "x", "train/cat/0.jpg", "val/cat/1.jpg")) == ""
    assert unlabelled_test_remark(files(tmp_path / "y", "test/cat/0.jpg")) == ""
    assert (
        unlabelled_test_remark(root, options=SourceOptions(rules=1)) == ""
    )  # they know no such split


@pytest.mark.parametrize(
    "names",
    [
        ("train/cat/0.jpg", "test/1.jpg", "testing/2.jpg"),
        ("ant/0.jpg", "bee/1.jpg", "test/2.jpg"),
    ],
)
def test_a_test_split_that_would_be_refused_is_not_mentioned(tmp_path, names):
    """No remark names a test split that would be refused, or a class of that name."""
    assert unlabelled_test_remark(files(tmp_path, *names)) == ""


def test_names_that_begin_with_wnids_tell_classes_without_folders(tmp_path):
    """The wnid at the start of a file's name is its class; a name without one is then refused."""
    root = files(tmp_path / "x", "train/n01440764_1.JPEG", "train/n01443537_2.JPEG")
    assert keys(root) == ["n01440764/n01440764_1.JPEG", "n01443537/n01443537_2.JPEG"]
    assert keys(root / "train") == keys(root)
    assert keys(root, class_name="-") == ["-/n01440764_1.JPEG", "-/n01443537_2.JPEG"]
    files(root, "train/cat.jpg")
    with pytest.raises(SourceError, match="lie in no class folder"):
        keys(root)
    listing = open_source(root / "train", "train").list(lambda num_new: None)
    split_classes = SplitClasses(Evidence.decode(listing.schema.metadata))
    with pytest.raises(SourceError, match=r"a class by its folder or name, and '-/cat\.jpg' lies"):
        combine_classes({"train": split_classes})


@pytest.mark.parametrize(
    ("name", "text", "column"),
    [
        ("metadata.csv", "file_name,label\r\na.jpg,cat\r\n", "label"),
        ("train.csv", '\ufeff"Id";"Target"\n"a";"1"\n', "Target"),
        ("labels.tsv", "image\tclass_name\na.jpg\tcat\n", "class_name"),
        ("metadata.jsonl", '{"file_name": "a.jpg", "label": 1}\n', "label"),
    ],
)
@pytest.mark.parametrize("folder", ["", "train/"])
def test_a_table_of_classes_beside_images_is_never_ignored(tmp_path, name, text, column, folder):
    """A table of classes beside the images is refused, unless --class-name is passed."""
    root = files(tmp_path / "x", f"{folder}a.jpg")
    (root / folder / name).write_text(text)
    with pytest.raises(SourceError, match=rf"{name} lists the classes .*column '{column}'"):
        keys(root)
    assert keys(root, class_name="-") == ["-/a.jpg"]


@pytest.mark.parametrize("text", ["file_name,caption\na.jpg,a cat\n", "", "\x00\xff", "label\n1\n"])
def test_tables_without_classes_are_skipped(tmp_path, text):
    """A table of captions, and a file that is no table, are skipped."""
    root = files(tmp_path / "x", "a.jpg")
    for name in ("metadata.csv", "metadata.jsonl"):
        (root / name).write_text(text)
    assert keys(root) == ["-/a.jpg"]
