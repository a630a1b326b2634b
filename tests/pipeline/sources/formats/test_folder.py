"""Class folders, and Tiny-ImageNet's layout of them."""

import os
from pathlib import Path

import fsspec
import pytest

from pipeline.errors import SourceError
from pipeline.sources import open_source, source_splits
from pipeline.sources.classes.evidence import Evidence
from pipeline.sources.options import DEFAULT_OPTIONS, SourceOptions
from pipeline.sources.reader import SourceReader
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


def listed(
    root: Path | str,
    split: str = "train",
    kind: str | None = None,
    options: SourceOptions = DEFAULT_OPTIONS,
) -> dict[str, bytes]:
    source = open_source(root, split, kind, options)
    reader = SourceReader(source.root)
    rows = source.list(lambda num_new: None).to_pylist()
    return {
        row["key"]: reader.read(row.get("path", row["key"]), row.get("offset"), row["num_bytes"])
        for row in rows
    }


def test_an_image_may_have_any_name(tmp_path):
    """All files count, except hidden ones, tables, texts, and files that systems leave."""
    samples = {
        "n01440764/a.JPEG": b"1",
        "n01440764/b": b"2",
        "n01440764/c.weird": b"",
        "x/d.png": b"4",
    }
    passed_over = {
        "n01440764/.hidden.jpg": b"x",
        "n01440764/boxes.txt": b"x",
        "x/deeper/e.txt": b"x",
        "x/Icon\r": b"x",
        "x/a.jpg:Zone.Identifier": b"x",
        "x/b.jpg.part": b"x",
        "x/c.jpg~": b"x",
        "x/d.JPG.CRDOWNLOAD": b"x",
        ".git/f.jpg": b"x",
        "__MACOSX/g.jpg": b"x",
        "@eaDir/n01440764@SynoEAStream": b"x",
        "$Recycle.Bin/S-1-5/h.jpg": b"x",
        "lost+found/i.jpg": b"x",
        "_vti_cnf/j.jpg": b"x",
        "x/_vti_cnf/k.jpg": b"x",
        "readme": b"x",
    }
    assert listed(write_files(tmp_path, samples | passed_over)) == samples
    table = open_source(tmp_path, "train").list(lambda num_new: None)
    passed = Evidence.decode(table.schema.metadata).skipped
    assert {why: seen.count for why, seen in passed.items()} == {
        "hidden by a dot": 2,
        "texts, tables and archives": 2,
        "of a system or NAS": 8,
        "backups and unfinished downloads": 3,
        "folders without an image": 1,
        "files beside the class folders": 1,
    }


@pytest.mark.parametrize(
    ("recursive", "keys"),
    [
        ("first", ["cat/0.jpg", "dog/1.jpg", "dog/batch2__1.jpg", "dog/batch2__x__2.jpg"]),
        ("last", ["batch2/dog__1.jpg", "cat/0.jpg", "dog/1.jpg", "x/dog__batch2__2.jpg"]),
    ],
)
def test_images_below_class_folders_are_refused_or_all_listed(tmp_path, recursive, keys):
    """Images below class folders are refused until --recursive decides the class folder."""
    names = ["cat/0.jpg", "dog/1.jpg", "dog/batch2/1.jpg", "dog/batch2/x/2.jpg"]
    root = write_files(tmp_path, {name: name.encode() for name in names})
    with pytest.raises(SourceError, match=r"dog/batch2 holds 2 files that lie deeper .* first \("):
        listed(root)
    options = SourceOptions(recursive=recursive)
    images = listed(root, options=options)
    assert list(images) == keys
    assert sorted(images.values()) == sorted(name.encode() for name in names)
    assert set(listed(root, options=SourceOptions(ignore=("batch*",)))) == {
        "cat/0.jpg",
        "dog/1.jpg",
    }


def test_deeper_classes_are_found_with_recursive(tmp_path):
    """Deeper class folders, also under splits, need --recursive, and the error says so."""
    files = {f"{split}/pets/{c}/{c}.jpg": b"x" for split in ("train", "val") for c in "ab"}
    root = write_files(tmp_path, files)
    with pytest.raises(SourceError, match="--recursive last"):
        open_source(root, "train")
    options = SourceOptions(recursive="last")
    assert source_splits(root, options=options) == ["train", "val"]
    assert list(listed(root, options=options)) == ["a/pets__a.jpg", "b/pets__b.jpg"]


def test_a_link_to_a_parent_folder_is_refused_with_its_name(tmp_path):
    """The link may also lead to itself."""
    root = write_files(tmp_path, {"a/1.jpg": b"1", "b/2.jpg": b"2"})
    (root / "a" / "again").symlink_to(root)
    with pytest.raises(SourceError, match=r"a/again.* is a link that leads back to a folder"):
        listed(root, options=SourceOptions(recursive="first"))
    (root / "a" / "again").unlink()
    (root / "b" / "itself").symlink_to("itself")
    with pytest.raises(SourceError, match=r"b/itself' is a link that leads back to itself"):
        listed(root)
    (root / "b" / "itself").unlink()
    (root / "loop").symlink_to("loop")
    with pytest.raises(SourceError, match=r"loop' is a link that leads back to itself"):
        open_source(root, "train")


def test_a_class_folder_that_links_to_a_parent_folder_is_refused(tmp_path):
    """The advice for a link among class folders never ignores real classes."""
    root = write_files(tmp_path / "x", {"a/1.jpg": b"1", "b/2.jpg": b"2", "b/a/3.jpg": b"3"})
    with pytest.raises(SourceError, match=r"Pass --recursive first .* --recursive last .*'a'\)\.$"):
        listed(root)
    for target in (root, tmp_path):
        (root / "loop").symlink_to(target)
        with pytest.raises(SourceError, match=r"x/loop' is a link that leads back .* 'loop'\.$"):
            listed(root, options=SourceOptions(recursive="last"))
        with pytest.raises(SourceError, match=r"x/loop' is a link that leads back .* 'loop'\.$"):
            listed(root)
        (root / "loop").unlink()


def test_one_folder_is_one_class_under_any_links(tmp_path):
    """Classes may be links, each to a folder of its own."""
    write_files(tmp_path / "real", {"a/1.jpg": b"1", "b/2.jpg": b"2"})
    root = tmp_path / "root"
    root.mkdir()
    for name in ("a", "b"):
        (root / name).symlink_to(tmp_path / "real" / name)
    assert list(listed(root)) == ["a/1.jpg", "b/2.jpg"]
    (root / "alias").symlink_to("a")
    with pytest.raises(SourceError, match="would be of two classes"):
        listed(root)
    (tmp_path / "real" / "0").symlink_to("a")
    with pytest.raises(SourceError, match=r"/0' is a link .* class 'a', .* pass --ignore '0'\."):
        listed(tmp_path / "real")
    assert len(listed(tmp_path / "real", options=SourceOptions(ignore=("0",)))) == 2


@pytest.mark.parametrize("recursive", ["first", "last"])
def test_nested_splits_are_never_merged(tmp_path, recursive):
    """Class folders under several splits are refused; a class may have a split's name."""
    files = {f"archive/{split}/{c}/1.jpg": b"x" for split in ("train", "test") for c in "ab"}
    root = write_files(tmp_path / "x", files)
    with pytest.raises(SourceError, match=r"'archive/test', 'archive/train'.*Pass '.*x/archive'"):
        listed(root, options=SourceOptions(recursive=recursive))
    assert len(listed(root / "archive", options=SourceOptions(recursive=recursive))) == 2
    root = write_files(tmp_path / "y", {"bus/train/1.jpg": b"1", "bus/car/2.jpg": b"2"})
    assert len(listed(root, options=SourceOptions(recursive=recursive))) == 2


def test_a_table_of_other_classes_than_the_folders_is_refused(tmp_path):
    """A table of other classes than the folders is refused until --ignore excludes it."""
    root = write_files(tmp_path, {"train/a/1.jpg": b"1", "train/b/2.jpg": b"2"})
    (root / "train" / "metadata.csv").write_text("file_name,label\na/1.jpg,b\n")
    with pytest.raises(
        SourceError, match=r"metadata\.csv lists classes .* --ignore 'metadata\.csv'"
    ):
        listed(root)
    assert len(listed(root, options=SourceOptions(ignore=("metadata.csv",)))) == 2
    (root / "train" / "metadata.csv").write_text("file_name,caption\na/1.jpg,a cat\n")
    assert len(listed(root)) == 2


def test_images_beside_class_folders_are_refused(tmp_path):
    """Images beside class folders are refused, also those of a half-sorted val split."""
    files = {"a/1.jpg": b"1", "b/2.jpg": b"2"}
    root = write_files(tmp_path / "x", files | {"3.jpg": b"3"})
    with pytest.raises(SourceError, match=r"1 images of .* \(3\.jpg\): their class is unknown"):
        listed(root)
    assert set(listed(root, options=SourceOptions(ignore=("3.*",)))) == set(files)
    val = {f"val/n0000000{k}/ILSVRC2012_val_0000000{k}.JPEG": b"x" for k in (1, 2)}
    flat = {"val/ILSVRC2012_val_00000003.JPEG": b"x"}
    root = write_files(tmp_path / "Data" / "CLS-LOC", val | flat).parent
    with pytest.raises(SourceError, match="sorting them into class folders was interrupted"):
        listed(root, "val")


def test_two_folders_of_one_split_are_refused(tmp_path):
    """Two folders for one split are refused, since either may be the right one."""
    root = write_files(tmp_path, {"val/a/1.jpg": b"1", "validation/a/1.jpg": b"2"})
    with pytest.raises(SourceError, match="2 folders of the split 'val': val, validation"):
        listed(root, "val")
    ignore = SourceOptions(ignore=("validation",))
    assert listed(root, "val", options=ignore) == {"a/1.jpg": b"1"}
    assert listed(root / "validation", "val") == {"a/1.jpg": b"2"}


def test_empty_class_folders_are_classes(tmp_path):
    """An empty folder is a class, but a folder with other files is not."""
    root = write_files(tmp_path, {"z/1.jpg": b"1", "tables/readme.txt": b"x"})
    for number in range(30):
        (root / f"c{number:02d}").mkdir()
    assert list(listed(root)) == ["z/1.jpg"]
    table = open_source(root, "train").list(lambda num_new: None)
    classes = {name for name, _, _ in Evidence.decode(table.schema.metadata).items()}
    assert classes == {f"c{number:02d}" for number in range(30)} | {"z"}


def test_one_name_in_two_compositions_in_one_split_is_refused(tmp_path):
    """Two compositions of one name are refused in one split, and are one class over two."""
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    root = write_files(tmp_path, {f"train/{composed}/1.jpg": b"1", f"val/{decomposed}/2.jpg": b"2"})
    assert listed(root) == {f"{composed}/1.jpg": b"1"}
    assert listed(root, "val") == {f"{composed}/2.jpg": b"2"}
    write_files(root, {f"train/{decomposed}/3.jpg": b"3"})
    with pytest.raises(SourceError, match="differ only in Unicode normalisation"):
        listed(root)


def test_entries_beside_the_splits_are_counted(tmp_path):
    """Folders and images that belong to no split are counted."""
    names = ("train/a/1.jpg", "more/b/2.jpg", "3.jpg", "val/a/4.jpg")
    root = write_files(tmp_path, dict.fromkeys(names, b"x"))
    table = open_source(root, "train").list(lambda num_new: None)
    passed = Evidence.decode(table.schema.metadata).skipped
    assert passed["images and folders beside those of the splits"].count == 2


def test_a_folder_without_permission_does_not_stop_detection(tmp_path, monkeypatch):
    """A folder without read permission, such as lost+found, does not stop the detection."""
    root = write_files(tmp_path, {"n01440764/a.jpg": b"1"})
    (root / "lost+found").mkdir()
    scandir, is_file = os.scandir, Path.is_file

    def look(path):
        if str(path).endswith("lost+found"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    def ask(self):
        if self.parent.name in ("lost+found", "n01440764"):
            raise PermissionError(13, "Permission denied", str(self))
        return is_file(self)

    monkeypatch.setattr(os, "scandir", look)
    monkeypatch.setattr(Path, "is_file", ask)
    assert listed(root) == {"n01440764/a.jpg": b"1"}


@pytest.mark.parametrize("images", [False, True])
def test_tiny_imagenets_val_may_be_sorted_into_class_folders(tmp_path, images):
    """A val split in class folders may keep its table and its empty folder of images."""
    files = {k: v for k, v in TINY.items() if not k.startswith("val/images")}
    val = {"val/n01629819/val_0.JPEG": b"44444", "val/n01443537/val_1.JPEG": b"3333"}
    root = write_files(tmp_path, files | val)
    if images:
        (root / "val" / "images").mkdir()
    assert listed(root, "val") == {key.removeprefix("val/"): data for key, data in val.items()}
    write_files(root, {"val/images/val_2.JPEG": b"x"})
    with pytest.raises(SourceError, match="is only partly sorted: 1 files are in images"):
        listed(root, "val")


def test_keys_are_sorted_by_bytes_over_all_classes(tmp_path):
    """Keys are sorted by bytes, also where a class's name begins another's, and beyond ASCII."""
    files = {
        f"{name}/{file}": b""
        for name in ("a", "a b", "a-", "é", "z")
        for file in ("ü.jpg", "Z.jpg")
    }
    assert list(listed(write_files(tmp_path, files))) == sorted(files, key=str.encode)


def test_links_are_followed_as_files(tmp_path):
    """Symbolic and hard links to files, and links to class folders, are followed."""
    root = write_files(tmp_path / "x", {"n01440764/a.jpg": b"123"})
    (root / "n01440764" / "soft.jpg").symlink_to("a.jpg")
    os.link(root / "n01440764" / "a.jpg", root / "n01440764" / "hard.jpg")
    write_files(tmp_path / "y", {f"n02119789/{name}.jpg": b"123" for name in "abc"})
    (root / "n02119789").symlink_to(tmp_path / "y" / "n02119789")
    assert list(listed(root).values()) == [b"123"] * 6


def test_a_broken_link_is_refused_with_its_name(tmp_path):
    """The sample would otherwise be left out silently."""
    root = write_files(tmp_path, {"n01440764/a.jpg": b"123"})
    (root / "n01440764" / "b.jpg").symlink_to("gone.jpg")
    with pytest.raises(SourceError, match=r"n01440764/b\.jpg' is a link that leads nowhere"):
        listed(root)


def test_invalid_names_are_refused_and_shown(tmp_path):
    """Names with a line break, or with bytes that are no UTF-8, are refused."""
    root = write_files(tmp_path / "x", {"n01440764/a\nb.jpg": b"123"})
    with pytest.raises(SourceError, match=r"the key 'n01440764/a\\nb\.jpg', of .* cannot be used"):
        listed(root)
    (root / "n01440764" / "a\nb.jpg").unlink()
    Path(os.fsdecode(bytes(root / "n01440764") + b"/\xff.jpg")).write_bytes(b"x")
    with pytest.raises(SourceError, match=r"'\\udcff\.jpg' in n01440764 is not valid UTF-8"):
        listed(root)


def test_a_class_folder_that_cannot_be_opened_is_an_error(tmp_path, monkeypatch):
    """A class folder that cannot be read raises an error with its name."""
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
def test_tiny_imagenet_is_read_in_its_own_layout(tmp_path, where):
    """Keys are `<class>/<file>`, and the classes of val come from its table."""
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
    assert set(source_splits(root)) >= {"train", "val"}


def test_a_val_image_without_a_class_is_named(tmp_path):
    """A val image without a line in the table is refused, in a folder and in a tar."""
    files = TINY | {"val/val_annotations.txt": b"val_0.JPEG\tn01629819\t0\t0\n"}
    write_files(tmp_path / "x", files)
    (tmp_path / "t.tar").write_bytes(tar_bytes(files))
    for root in (tmp_path / "x", tmp_path / "t.tar"):
        with pytest.raises(SourceError, match=r"'val_1\.JPEG' has no class: val_annotations\.txt"):
            listed(root, "val")


def test_a_class_of_both_shapes_lists_both(tmp_path):
    """Files in `<class>` and in `<class>/images` are all listed; equal names are refused."""
    files = {"a/images/1.jpg": b"1", "a/0.jpg": b"0", "b/2.jpg": b"2", "a/3.jpg": b"3"}
    root = write_files(tmp_path, files)
    assert listed(root) == {"a/0.jpg": b"0", "a/1.jpg": b"1", "a/3.jpg": b"3", "b/2.jpg": b"2"}
    (root / "a" / "1.jpg").write_bytes(b"x")
    with pytest.raises(SourceError, match=r"'a/1\.jpg': 'a/1\.jpg' and 'a/images/1\.jpg'"):
        listed(root)


def test_links_inside_a_tree_tar_lead_to_the_samples_bytes(tmp_path):
    """A hard link, as GNU tar stores a repeated file, has the bytes of its target."""
    import tarfile

    root = write_files(tmp_path / "x", {"a/1.jpg": b"123"})
    (root / "b").mkdir()
    os.link(root / "a" / "1.jpg", root / "b" / "2.jpg")
    (root / "b" / "3.jpg").symlink_to("../a/1.jpg")
    with tarfile.open(tmp_path / "t.tar", "w") as tar:
        tar.add(root, "x")
    assert listed(tmp_path / "t.tar") == {"a/1.jpg": b"123", "b/2.jpg": b"123", "b/3.jpg": b"123"}


def test_a_class_named_like_a_split_stays_a_class(tmp_path):
    """The folder of the split is the one above the class; each split has its own fingerprint."""
    (tmp_path / "t.tar").write_bytes(tar_bytes({"train/test/a.jpg": b"1", "val/train/b.jpg": b"2"}))
    assert listed(tmp_path / "t.tar") == {"test/a.jpg": b"1"}
    assert listed(tmp_path / "t.tar", "val") == {"train/b.jpg": b"2"}
    prints = {open_source(tmp_path / "t.tar", split).fingerprint() for split in ("train", "val")}
    assert len(prints) == 2


def test_words_are_found_above_the_folder(tmp_path):
    """Words are found beside the split folders; only lines with a wnid count."""
    root = write_files(tmp_path, {"train/n01440764/a.jpg": b"1"})
    (root / "words.txt").write_text("no wnid here\nn01440764\ttench, Tinca tinca\n")
    assert open_source(root, "train").words() == {"n01440764": "tench, Tinca tinca"}
    (root / "LOC_synset_mapping.txt").write_text("n01440764 tench\nn01443537 goldfish\n")
    assert open_source(root, "train").words() == {"n01440764": "tench", "n01443537": "goldfish"}


def test_the_real_tiny_imagenet_tar_is_read(real_data):
    """The real set has 8,000 train and 2,000 val photographs of 200 classes."""
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


def test_the_real_photographs_are_listed(real_data):
    """All 400 photographs are listed with the bytes of their files."""
    root = real_data / "imagenet"
    images = listed(root)
    assert len(images) == 400
    assert all((root / "train" / key).read_bytes() == data for key, data in images.items())


def test_class_folders_may_hold_images_that_were_val_images_once(tmp_path: Path) -> None:
    """Val images in class folders of train, as in Imagenette, are samples like others."""
    for split in ("train", "val"):
        for wnid in ("n01440764", "n02102040"):
            folder = tmp_path / split / wnid
            folder.mkdir(parents=True)
            (folder / "ILSVRC2012_val_00000293.JPEG").write_bytes(b"x")
    assert source_splits(tmp_path) == ["train", "val"]
    assert open_source(tmp_path, "train").kind == "folder"
