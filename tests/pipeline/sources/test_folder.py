"""Class folders, Tiny-ImageNet's among them."""

import os
from pathlib import Path

import fsspec
import pytest

from pipeline.errors import SourceError
from pipeline.sources import open_source, splits
from pipeline.sources.reader import Reader
from tests.pipeline.sources.layouts import tar_bytes, write_folder

TINY = {
    "wnids.txt": b"n01443537\nn01629819\n",
    "words.txt": b"n01443537\tgoldfish\nn01629819\tEuropean fire salamander\n",
    "train/n01443537/images/n01443537_1.JPEG": b"11",
    "train/n01443537/n01443537_boxes.txt": b"n01443537_1.JPEG\t0\t0\t1\t1\n",
    "train/n01629819/images/n01629819_0.JPEG": b"222",
    "val/images/val_1.JPEG": b"3333",
    "val/images/val_0.JPEG": b"44444",
    "val/val_annotations.txt": b"val_0.JPEG\tn01629819\t0\t0\nval_1.JPEG\tn01443537\t0\t0\n",
    "test/images/test_0.JPEG": b"5",
}


def write_files(root: Path, files: dict[str, bytes]) -> Path:
    return write_folder(root, files)


def listed(root: Path | str, split: str = "train", kind: str | None = None) -> dict[str, bytes]:
    source = open_source(root, split, kind)
    reader = Reader(source.root)
    rows = source.list(lambda num_new: None).to_pylist()
    return {
        row["key"]: reader.read(row.get("path", row["key"]), row.get("offset"), row["num_bytes"])
        for row in rows
    }


def test_an_image_may_be_called_anything(tmp_path):
    """All files count but hidden ones, tables and texts, and what lies deeper."""
    kept = {
        "n01440764/a.JPEG": b"1",
        "n01440764/b": b"2",
        "n01440764/c.weird": b"",
        "x/d.png": b"4",
    }
    left = {
        "n01440764/.hidden.jpg": b"x",
        "n01440764/boxes.txt": b"x",
        "x/deeper/e.jpg": b"x",
        ".git/f.jpg": b"x",
        "__MACOSX/g.jpg": b"x",
        "top.jpg": b"x",
    }
    assert listed(write_files(tmp_path, kept | left)) == kept


def test_keys_are_sorted_by_bytes_over_all_classes(tmp_path):
    """A class whose name begins another's, and names beyond ASCII."""
    files = {
        f"{name}/{file}": b""
        for name in ("a", "a b", "a-", "é", "z")
        for file in ("ü.jpg", "Z.jpg")
    }
    assert list(listed(write_files(tmp_path, files))) == sorted(files, key=str.encode)


def test_links_are_followed_as_files(tmp_path):
    """Symbolic and hard links to files, and a linked class folder."""
    root = write_files(tmp_path / "x", {"n01440764/a.jpg": b"123"})
    (root / "n01440764" / "soft.jpg").symlink_to("a.jpg")
    os.link(root / "n01440764" / "a.jpg", root / "n01440764" / "hard.jpg")
    (root / "n02119789").symlink_to(root / "n01440764")
    assert list(listed(root).values()) == [b"123"] * 6


def test_a_link_that_leads_nowhere_is_named(tmp_path):
    """Leaving it out would leave a sample out without a word."""
    root = write_files(tmp_path, {"n01440764/a.jpg": b"123"})
    (root / "n01440764" / "b.jpg").symlink_to("gone.jpg")
    with pytest.raises(SourceError, match=r"n01440764/b\.jpg' is a link that leads nowhere"):
        listed(root)


def test_odd_names_are_refused_and_shown(tmp_path):
    """A line break, and bytes that are no text."""
    root = write_files(tmp_path / "x", {"n01440764/a\nb.jpg": b"123"})
    with pytest.raises(SourceError, match=r"the key 'n01440764/a\\nb\.jpg' cannot be used"):
        listed(root)
    (root / "n01440764" / "a\nb.jpg").unlink()
    Path(os.fsdecode(bytes(root / "n01440764") + b"/\xff.jpg")).write_bytes(b"x")
    with pytest.raises(SourceError, match=r"'\\udcff\.jpg' in n01440764 is not valid UTF-8"):
        listed(root)


def test_a_class_folder_that_cannot_be_opened_is_an_error(tmp_path, monkeypatch):
    """An error of reading is told with the folder's name, not passed over."""
    root = write_files(tmp_path, {"n01440764/a.jpg": b"123"})
    source = open_source(root, "train")
    scandir = os.scandir

    def fail(path):
        if str(path).endswith("n01440764"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", fail)
    with pytest.raises(OSError, match=r"cannot read .*n01440764: Permission denied"):
        source.list(lambda num_new: None)


@pytest.mark.parametrize("where", ["folder", "memory", "tar", "tar.gz"])
def test_tiny_imagenet_in_its_own_layout(tmp_path, where):
    """Keys are `<class>/<file>`; the classes of val come from its table."""
    files = {f"tiny-imagenet-200/{name}": data for name, data in TINY.items()}
    if where == "folder":
        root = write_files(tmp_path, files) / "tiny-imagenet-200"
    elif where == "memory":
        root = f"memory://{tmp_path}/tiny-imagenet-200"
        for name, data in files.items():
            fsspec.filesystem("memory").pipe_file(f"{tmp_path}/{name}", data)
    else:
        root = tmp_path / f"t.{where}"
        root.write_bytes(tar_bytes(files, "w:gz" if where == "tar.gz" else "w"))
    source = open_source(root, "train")
    assert source.kind == ("tar" if "tar" in where else "tiny-imagenet")
    if where == "tar.gz":
        return
    assert listed(root) == {
        "n01443537/n01443537_1.JPEG": b"11",
        "n01629819/n01629819_0.JPEG": b"222",
    }
    assert listed(root, "val") == {
        "n01443537/val_1.JPEG": b"3333",
        "n01629819/val_0.JPEG": b"44444",
    }
    assert source.words()["n01443537"] == "goldfish"
    assert set(splits(root)) >= {"train", "val"}


def test_a_val_image_without_a_class_is_named(tmp_path):
    """In a folder and in a tar."""
    files = TINY | {"val/val_annotations.txt": b"val_0.JPEG\tn01629819\t0\t0\n"}
    write_files(tmp_path / "x", files)
    (tmp_path / "t.tar").write_bytes(tar_bytes(files))
    for root in (tmp_path / "x", tmp_path / "t.tar"):
        with pytest.raises(SourceError, match=r"'val_1\.JPEG' has no class: val_annotations\.txt"):
            listed(root, "val")


def test_a_class_of_both_shapes_lists_both(tmp_path):
    """`<class>/<file>` beside `<class>/images/<file>`; one name in both is refused."""
    files = {"a/images/1.jpg": b"1", "a/0.jpg": b"0", "b/2.jpg": b"2", "a/3.jpg": b"3"}
    root = write_files(tmp_path, files)
    assert listed(root) == {"a/0.jpg": b"0", "a/1.jpg": b"1", "a/3.jpg": b"3", "b/2.jpg": b"2"}
    (root / "a" / "1.jpg").write_bytes(b"x")
    with pytest.raises(SourceError, match=r"'a/1\.jpg': 'a/1\.jpg' and 'a/images/1\.jpg'"):
        listed(root)


def test_links_inside_a_tree_tar_lead_to_the_samples_bytes(tmp_path):
    """GNU tar stores a hard link where it meets a file for the second time."""
    import tarfile

    root = write_files(tmp_path / "x", {"a/1.jpg": b"123"})
    (root / "b").mkdir()
    os.link(root / "a" / "1.jpg", root / "b" / "2.jpg")
    (root / "b" / "3.jpg").symlink_to("../a/1.jpg")
    with tarfile.open(tmp_path / "t.tar", "w") as tar:
        tar.add(root, "x")
    assert listed(tmp_path / "t.tar") == {"a/1.jpg": b"123", "b/2.jpg": b"123", "b/3.jpg": b"123"}


def test_a_class_named_like_a_split_stays_a_class(tmp_path):
    """The folder of the split is the one above the class. Each split has its own fingerprint."""
    (tmp_path / "t.tar").write_bytes(tar_bytes({"train/test/a.jpg": b"1", "val/train/b.jpg": b"2"}))
    assert listed(tmp_path / "t.tar") == {"test/a.jpg": b"1"}
    assert listed(tmp_path / "t.tar", "val") == {"train/b.jpg": b"2"}
    prints = {open_source(tmp_path / "t.tar", split).fingerprint() for split in ("train", "val")}
    assert len(prints) == 2


def test_words_are_found_above_the_folder(tmp_path):
    """Beside the split folders, and from other programs' lists only lines with a wnid."""
    root = write_files(tmp_path, {"train/n01440764/a.jpg": b"1"})
    (root / "words.txt").write_text("no wnid here\nn01440764\ttench, Tinca tinca\n")
    assert open_source(root, "train").words() == {"n01440764": "tench, Tinca tinca"}
    (root / "LOC_synset_mapping.txt").write_text("n01440764 tench\nn01443537 goldfish\n")
    assert open_source(root, "train").words() == {"n01440764": "tench", "n01443537": "goldfish"}


def test_the_real_tiny_imagenet_tar(real_data):
    """8,000 train and 2,000 val photographs of 200 classes and their bytes."""
    import tarfile

    path = real_data / "tiny-imagenet-200.tar"
    train, val = listed(path), listed(path, "val")
    assert (len(train), len(val)) == (8000, 2000)
    with tarfile.open(path) as oracle:
        for key in list(train)[::500]:
            wnid, name = key.split("/")
            member = oracle.extractfile(f"tiny-imagenet-200/train/{wnid}/images/{name}")
            assert member.read() == train[key]
    assert all(data[:2] == b"\xff\xd8" for data in (*train.values(), *val.values()))
    assert open_source(path, "val").words()["n01443537"].startswith("goldfish")


def test_the_real_photographs(real_data):
    """400 of 400, with the bytes of the files."""
    root = real_data / "imagenet"
    found = listed(root)
    assert len(found) == 400
    assert all((root / "train" / key).read_bytes() == data for key, data in found.items())


def test_class_folders_may_hold_images_that_were_val_images_once(tmp_path: Path) -> None:
    """Imagenette deals ILSVRC's val images into its own train classes."""
    for split in ("train", "val"):
        for wnid in ("n01440764", "n02102040"):
            folder = tmp_path / split / wnid
            folder.mkdir(parents=True)
            (folder / "ILSVRC2012_val_00000293.JPEG").write_bytes(b"x")
    assert splits(tmp_path) == ["train", "val"]
    assert open_source(tmp_path, "train").kind == "folder"
