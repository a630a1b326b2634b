"""Images in one folder without classes: of none, of one that is named, or refused."""

from pathlib import Path

import pytest

from pipeline.errors import SourceError
from pipeline.sources import open_source, splits
from pipeline.sources.options import SourceOptions
from tests.pipeline.sources.layouts import write_folder


def keys(root: Path, split: str = "train", **how: object) -> list[str]:
    source = open_source(root, split, options=SourceOptions(**how))
    return source.list(lambda num_new: None)["key"].to_pylist()


def files(root: Path, *names: str) -> Path:
    return write_folder(root, dict.fromkeys(names, b"x"))


def test_a_flat_folder_is_a_source_of_no_class_or_of_one(tmp_path):
    """A GAN needs none. What has no suffix is an image here too; a text is none."""
    root = files(tmp_path / "photos", "a.jpg", "b", "c.txt")
    assert open_source(root, "train").kind == "flat"
    assert splits(root) == []
    assert keys(root) == ["-/a.jpg", "-/b"]
    assert keys(root, class_name="cat") == ["cat/a.jpg", "cat/b"]
    assert keys(root, class_name="-") == ["-/a.jpg", "-/b"]


def test_one_class_folder_alone_is_of_its_own_class(tmp_path):
    """By its wnid, though its images are those of ILSVRC's val; or by the name that is passed."""
    root = files(tmp_path / "n01440764", "ILSVRC2012_val_00000293.JPEG", "n01440764_1.JPEG")
    assert [key.partition("/")[0] for key in keys(root)] == ["n01440764"] * 2
    root = files(tmp_path / "dogs", "ILSVRC2012_val_00000293.JPEG")
    with pytest.raises(SourceError, match=r"have no classes: .*not found"):
        keys(root)
    assert keys(root, class_name="dog") == ["dog/ILSVRC2012_val_00000293.JPEG"]


def test_a_class_folder_may_hold_a_single_val_image(tmp_path):
    """Its name tells the class, which no split is called."""
    root = files(tmp_path, "dog/ILSVRC2012_val_00000293.JPEG", "cat/ILSVRC2012_val_00000001.JPEG")
    assert keys(root) == [
        "cat/ILSVRC2012_val_00000001.JPEG",
        "dog/ILSVRC2012_val_00000293.JPEG",
    ]


def test_images_in_folders_beside_flat_ones_are_refused_or_taken(tmp_path):
    """Nothing is left out: all depths with --recursive, none below with --ignore."""
    root = files(tmp_path, "a.jpg", "2019/b.txt", "2019/may/b.jpg")
    with pytest.raises(SourceError, match=r"'2019/may' in it holds 1 files .b\.jpg. that would"):
        keys(root)
    assert keys(root, ignore=("20*",)) == ["-/a.jpg"]
    assert keys(root, recursive="last", class_name="mine") == [
        "mine/2019__may__b.jpg",
        "mine/a.jpg",
    ]


def test_flat_split_folders_are_refused_until_somebody_says_of_what_class(tmp_path):
    """Train and test are no classes, though they look like class folders."""
    root = files(tmp_path, "train/cat.0.jpg", "train/dog.1.jpg", "test/1.jpg")
    assert splits(root) == ["test", "train"]
    for split in ("train", "test"):
        with pytest.raises(SourceError, match=rf"{split} lie in no class folder: .*--class-name -"):
            keys(root, split)
    assert keys(root, "train", class_name="-") == ["-/cat.0.jpg", "-/dog.1.jpg"]
    assert keys(root, "test", class_name="pet") == ["pet/1.jpg"]
    assert keys(root / "train") == ["-/cat.0.jpg", "-/dog.1.jpg"]


def test_a_test_split_without_labels_beside_others_with_them(tmp_path):
    """It is taken when it is asked for; a val split that lost its folders is not."""
    root = files(tmp_path, "train/cat/0.jpg", "test/1.jpg", "val/2.jpg")
    assert splits(root) == ["train"]
    assert keys(root, "test") == ["-/1.jpg"]
    with pytest.raises(SourceError, match="val lie in no class folder"):
        keys(root, "val")


def test_kaggles_test_images_have_no_label(tmp_path):
    """There are 100,000 of them: only when they are asked for."""
    base = "ILSVRC/Data/CLS-LOC"
    root = files(tmp_path, f"{base}/train/n01440764/a.JPEG", f"{base}/test/ILSVRC2012_test_1.JPEG")
    assert splits(root) == ["train"]
    assert keys(root, "test") == ["-/ILSVRC2012_test_1.JPEG"]
