"""ILSVRC2012 as distributed: tars, the val set and its classes, and Kaggle's tree."""

import errno
import io
import tarfile
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import ReadError, SourceError
from pipeline.sources import imagenet_tables, open_source, source_splits
from pipeline.sources.classes.evidence import Evidence
from pipeline.sources.formats.val_folder_check import check_sorted
from pipeline.sources.listing import listing_digest
from pipeline.sources.location import Location
from pipeline.sources.options import SourceOptions
from pipeline.sources.spool import spool_block, spool_listing
from tests.pipeline.sources.layouts import (
    class_tars,
    made_pictures,
    tar_bytes,
    write_class_tars,
    write_folder,
    write_tar_of_tars,
)

# the devkit's ids are no sorted order of the wnids
SYNSETS = ["n02119789", "n02100735", "n01440764"]
TRUTH = [3, 1, 1, 2, 3]
EXPECTED = [f"{SYNSETS[label - 1]}/ILSVRC2012_val_{i:08d}.JPEG" for i, label in enumerate(TRUTH, 1)]
VAL = {f"ILSVRC2012_val_{i:08d}.JPEG": bytes([i]) * i for i in range(1, 6)}
TRUTH_NAME = "ILSVRC2012_validation_ground_truth.txt"


def write_devkit(folder: Path, *, truth: str = "\n".join(map(str, TRUTH))) -> None:
    """Write the devkit's two files in the shape of the real ones."""
    savemat = pytest.importorskip("scipy.io").savemat
    kinds = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O"), ("gloss", "O")]
    rows = [(i, wnid, f"words of {wnid}", "") for i, wnid in enumerate(SYNSETS, 1)]
    folder.mkdir(parents=True, exist_ok=True)
    savemat(folder / "meta.mat", {"synsets": np.array(rows, kinds).reshape(-1, 1)})
    (folder / TRUTH_NAME).write_text(truth)


def keys(root: Path, split: str = "val", kind: str | None = None) -> list[str]:
    return open_source(root, split, kind).list(lambda num_new: None)["key"].to_pylist()


def test_one_root_may_hold_both_tars(tmp_path):
    """The split selects one of two tars in the same folder."""
    root = write_tar_of_tars(tmp_path / "x", made_pictures())
    (root / "ILSVRC2012_img_val.tar").write_bytes(tar_bytes(VAL))
    write_devkit(root / "ILSVRC2012_devkit_t12" / "data")
    (root / "ILSVRC2012_devkit_t12" / "COPYING").write_text("a file without a suffix")
    assert source_splits(root) == ["train", "val"]
    assert open_source(root, "train").kind == "ilsvrc-tar"
    assert keys(root) == sorted(EXPECTED)
    assert open_source(root, "val").words()["n02100735"] == "words of n02100735"


@pytest.mark.parametrize("kit", ["loose", "folder", "archive", "above"])
def test_the_devkit_is_found_in_each_usual_folder(tmp_path, kit):
    """The devkit is found beside the images, in its folder, in its archive, or a folder above."""
    root = write_folder(tmp_path / "x", {f"val/{name}": data for name, data in VAL.items()})
    if kit == "archive":
        write_devkit(tmp_path / "kit" / "ILSVRC2012_devkit_t12" / "data")
        with tarfile.open(root / "ILSVRC2012_devkit_t12.tar.gz", "w:gz") as tar:
            tar.add(tmp_path / "kit" / "ILSVRC2012_devkit_t12", "ILSVRC2012_devkit_t12")
    else:
        folders = {"loose": "val", "folder": "ILSVRC2012_devkit_t12/data", "above": ""}
        write_devkit(root / folders[kit])
    assert keys(root) == sorted(EXPECTED)
    assert keys(root / "val") == sorted(EXPECTED)


def test_val_without_its_table_is_refused_with_the_missing_files(tmp_path):
    """The error names the files that are missing, both or one of them."""
    root = write_folder(tmp_path, VAL | {"x": b""})
    with pytest.raises(
        SourceError,
        match=rf"{TRUTH_NAME} and meta.mat not found. Put ILSVRC2012_devkit_t12.tar.gz .* next to",
    ):
        keys(root)
    write_devkit(root)
    (root / "meta.mat").unlink()
    with pytest.raises(SourceError, match=r"no classes: meta\.mat not found"):
        keys(root)


@pytest.mark.parametrize(
    ("root", "kind"),
    [(".", None), ("CLS-LOC", None), ("CLS-LOC/val", None), ("CLS-LOC/val", "ilsvrc-val")],
)
def test_val_images_without_a_table_need_a_class_name(tmp_path, root, kind):
    """With --class-name, a val folder without a table is read if it is itself the source."""
    folder = write_folder(tmp_path, {f"CLS-LOC/val/{name}": data for name, data in VAL.items()})
    val = folder / "CLS-LOC" / "val"
    cure = rf"pass {val} itself as the source, without --source-kind, and .* --class-name; - for"
    with pytest.raises(SourceError, match=cure):
        keys(folder / root, kind=kind)
    source = open_source(val, "val", options=SourceOptions(class_name="dog"))
    assert source.list(lambda num_new: None)["key"].to_pylist() == [f"dog/{name}" for name in VAL]


def test_a_part_of_the_val_images_keeps_its_classes(tmp_path):
    """The number in the name selects the line, not the rank among the present images."""
    part = dict(list(VAL.items())[2:4])
    root = write_folder(tmp_path, part)
    write_devkit(root)
    assert keys(root) == sorted(EXPECTED[2:4])


def test_an_image_beyond_the_ground_truth_is_refused(tmp_path):
    """An image with a number beyond the table's lines is refused."""
    root = write_folder(tmp_path, VAL | {"ILSVRC2012_val_00000009.JPEG": b""})
    write_devkit(root)
    with pytest.raises(SourceError, match=r"none for the image 'ILSVRC2012_val_00000009\.JPEG'"):
        keys(root)


def test_the_ground_truth_of_another_devkit_is_refused(tmp_path):
    """A class number that the devkit lacks, and a table that is none, are refused."""
    root = write_folder(tmp_path, VAL)
    write_devkit(root, truth="1\n4\n")
    with pytest.raises(SourceError, match=r"line 2 is 4, which is not a class of .*meta\.mat"):
        keys(root)
    (root / "meta.mat").write_bytes(b"no such thing" * 20)
    with pytest.raises(SourceError, match=r"meta\.mat is not the devkit's table"):
        keys(root)


def test_a_devkit_that_was_cut_off_is_refused(tmp_path):
    """Wherever `meta.mat` ends, the error names it; the words of classes are optional."""
    root = write_folder(tmp_path, VAL)
    write_devkit(root)
    whole = (root / "meta.mat").read_bytes()
    for num_bytes in range(0, len(whole), 20):
        (root / "meta.mat").write_bytes(whole[:num_bytes])
        with pytest.raises(SourceError, match=r"meta\.mat is not the devkit's table"):
            imagenet_tables.find_ground_truth(Location(str(root)))
        assert imagenet_tables.find_words(Location(str(root))) == {}


def test_a_disk_that_fails_is_no_damaged_devkit(tmp_path, monkeypatch):
    """An error of the disk is raised as `ReadError`, since the next try may succeed."""

    class FailingFile(io.RawIOBase):
        def read(self, size=-1):
            raise OSError(errno.EIO, "disk")

    root = write_folder(tmp_path, VAL)
    write_devkit(root)
    monkeypatch.setattr(Location, "open", lambda *_, **__: FailingFile())
    for find in (imagenet_tables.find_ground_truth, imagenet_tables.find_words):
        with pytest.raises(ReadError, match=r"cannot read .*: disk"):
            find(Location(str(root)))


def test_the_error_without_scipy_names_the_package(tmp_path, monkeypatch):
    """The error names a way around it, too; the words of classes are optional."""
    import sys

    root = write_folder(tmp_path, VAL)
    write_devkit(root)
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    with pytest.raises(SourceError, match=r"needs scipy.*\bdevkit\b.*, or put Kaggle's"):
        keys(root)
    assert open_source(root, "val").words() == {}


def test_a_single_file_is_not_the_tree_beside_it(tmp_path):
    """Its folder holds Kaggle's tree, and val's images, which the user did not name."""
    write_folder(tmp_path / "ILSVRC" / "Data" / "CLS-LOC" / "train", made_pictures())
    write_folder(tmp_path, VAL)
    (tmp_path / "x.tar").write_bytes(tar_bytes(made_pictures()))
    assert open_source(tmp_path / "x.tar", "train").kind != "kaggle"
    with pytest.raises(SourceError, match=r"JPEG"):
        open_source(tmp_path / next(iter(VAL)), "val")


@pytest.mark.parametrize("level", ["", "ILSVRC", "ILSVRC/Data", "ILSVRC/Data/CLS-LOC"])
def test_kaggles_tree_is_found_from_any_level(tmp_path, level):
    """Kaggle's tree is detected at any level; the first word of a prediction is the class."""
    pictures = made_pictures()
    base = tmp_path / "ILSVRC" / "Data" / "CLS-LOC"
    write_folder(base / "train", pictures)
    write_folder(base, {f"val/{name}": data for name, data in VAL.items()})
    write_folder(base, {"test/ILSVRC2012_test_00000001.JPEG": b"1"})
    lines = [f"{Path(key).stem},{key.split('/')[0]} 1 2 3 4 n09999999 5 6 7 8" for key in EXPECTED]
    (tmp_path / "LOC_val_solution.csv").write_text("\n".join(["ImageId,PredictionString", *lines]))
    (tmp_path / "LOC_synset_mapping.txt").write_text("n01440764 tench, Tinca tinca\n")
    root = tmp_path / level
    assert source_splits(root) == ["train", "val"]
    assert open_source(root, "train").kind == open_source(root, "val").kind == "kaggle"
    assert keys(root, "train") == sorted(pictures)
    assert keys(root, "val") == sorted(EXPECTED)
    assert open_source(root, "val").words() == {"n01440764": "tench, Tinca tinca"}
    assert keys(root / "ILSVRC/Data/CLS-LOC/val" if not level else base / "val") == sorted(EXPECTED)


def test_val_in_class_folders_is_a_folder_like_any_other(tmp_path):
    """A val split in class folders, also in Kaggle's tree, is read like any class folder."""
    files = {f"CLS-LOC/val/{key}": b"1" for key in EXPECTED}
    root = write_folder(tmp_path, files)
    assert keys(root) == sorted(EXPECTED)


@pytest.mark.parametrize("where", ["", "val/"])
@pytest.mark.parametrize("kind", [None, "ilsvrc-val", "folder"])
def test_a_half_sorted_val_split_is_refused(tmp_path, where, kind):
    """A half-sorted val split is refused, whichever kind is named."""
    first = next(iter(VAL))
    files = {f"{where}{name}": data for name, data in VAL.items() if name != first}
    root = write_folder(tmp_path, {**files, f"{where}n01440764/{first}": b"1"})
    write_devkit(root)
    with pytest.raises(
        SourceError, match=r"only partly sorted: 4 val images|sorting .* was interrupted"
    ):
        keys(root, kind=kind)


def test_the_val_tar_may_be_called_val_in_its_folder(tmp_path):
    """The val tar is detected by its members, under any name."""
    write_devkit(tmp_path)
    (tmp_path / "val.tar").write_bytes(tar_bytes(VAL))
    assert source_splits(tmp_path) == ["val"]
    assert keys(tmp_path) == sorted(EXPECTED)


def test_flat_val_images_do_not_count_as_left_out_beside_train(tmp_path):
    """Flat val images beside train are the split val of the same root."""
    images = {f"val/{name}": data for name, data in VAL.items()}
    root = write_folder(tmp_path, {**images, "train/n01440764/a.JPEG": b"1"})
    write_devkit(root)
    assert source_splits(root) == ["train", "val"]
    listing = open_source(root, "train").list(lambda num_new: None)
    assert Evidence.decode(listing.schema.metadata).skipped == {}


def test_the_val_tar_and_the_val_folder_have_one_digest(tmp_path):
    """The tar, the compressed tar and the folder of val have the same digest."""
    write_folder(tmp_path / "folder", VAL)
    write_devkit(tmp_path)
    for name, mode in (("ILSVRC2012_img_val.tar", "w"), ("ILSVRC2012_img_val.tar.gz", "w:gz")):
        root = tmp_path / name.rpartition(".")[2]
        root.mkdir()
        (root / name).write_bytes(tar_bytes(VAL, mode))
    digest = listing_digest(open_source(tmp_path / "folder", "val").list(lambda _: None))
    assert listing_digest(open_source(tmp_path / "tar", "val").list(lambda _: None)) == digest
    blocks = open_source(tmp_path / "gz", "val").blocks()
    (tmp_path / "spool").mkdir()
    spool_block(blocks[0], str(tmp_path / "spool"))
    assert listing_digest(spool_listing(str(tmp_path / "spool"), blocks)) == digest


def test_a_cut_train_tar_is_refused_with_its_member(tmp_path):
    """A train tar that was truncated, such as a download, is refused with its member."""
    root = write_tar_of_tars(tmp_path / "x", made_pictures())
    path = root / "ILSVRC2012_img_train.tar"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(SourceError, match=r"img_train\.tar is not a complete tar: its member 'n0"):
        keys(root, "train")


def test_a_cut_class_tar_inside_a_whole_train_tar_is_refused(tmp_path):
    """A class tar whose last member reaches beyond its end is refused."""
    inner = tar_bytes({"n01440764_1.JPEG": b"x" * 5000})[:2048]
    (tmp_path / "ILSVRC2012_img_train.tar").write_bytes(tar_bytes({"n01440764.tar": inner}))
    with pytest.raises(SourceError, match=r"member 'n01440764_1\.JPEG' at byte 512 needs 5000"):
        keys(tmp_path, "train")


def test_class_tars_may_have_any_name_if_their_kind_is_passed(tmp_path):
    """With `--source-kind class-tars`, a class tar may have any name."""
    root = write_class_tars(tmp_path / "x", {"n01440764/a.jpg": b"1"})
    (root / "n01440764.tar").rename(root / "cat.tar")
    assert keys(root, "train", "class-tars") == ["cat/a.jpg"]


def test_the_real_devkit_is_read(real_data):
    """The real devkit has 50,000 lines, 50 images a class, and its own order of classes."""
    pytest.importorskip("scipy")
    location = Location(str(real_data / "meta"))
    truth = imagenet_tables.find_ground_truth(location)
    assert len(truth.by_number) == 50_000
    wnids, counts = np.unique(truth.by_number, return_counts=True)
    assert len(wnids) == 1000
    assert set(counts) == {50}
    # as in the script by which most people sort the val set into class folders
    expected = ["n01751748", "n09193705", "n02105855", "n04263257", "n03125729"]
    names = [f"ILSVRC2012_val_{i:08d}.JPEG" for i in range(1, 6)]
    assert [truth.wnid(name) for name in names] == expected
    assert imagenet_tables.find_words(location)["n01751748"] == "sea snake"


def write_table(root: Path, table: str) -> None:
    """Write a table with the classes of `VAL` into *root*."""
    root.mkdir(exist_ok=True)
    lines = [f"{Path(key).stem},{key.partition('/')[0]} 1 2 3 4" for key in EXPECTED]
    if table == "kaggle":
        text = "\n".join(["ImageId,PredictionString", *lines])
        (root / "LOC_val_solution.csv").write_text(text)
    else:
        write_devkit(root / "ILSVRC2012_devkit_t12" / "data")


@pytest.mark.parametrize("packing", ["", "ILSVRC/Data/CLS-LOC/", "tree", "class tars"])
@pytest.mark.parametrize("table", ["kaggle", "devkit"])
def test_val_images_of_other_classes_than_in_the_table_are_refused(tmp_path, packing, table):
    """Val images in class folders that contradict the table are refused."""
    name = EXPECTED[0].partition("/")[2]
    moved = [f"{SYNSETS[0]}/{name}", *EXPECTED[1:]]
    for location, sorted_out in (("right", EXPECTED), ("wrong", moved)):
        root, images = tmp_path / location, {key: key.encode() for key in sorted_out}
        write_table(root, table)
        if packing == "tree":
            members = {f"val/{key}": data for key, data in images.items()}
            (root / "set.tar").write_bytes(tar_bytes(members))
        elif packing == "class tars":
            for tar, data in class_tars(images).items():
                (root / tar).write_bytes(data)
        else:
            write_folder(root, {f"{packing}val/{key}": data for key, data in images.items()})
    for location in ("right", "wrong"):
        source = open_source(tmp_path / location, "val")
        listing = source.list(lambda num_new: None)
        if location == "right":
            checked = check_sorted(Location(source.root), listing)
            assert checked["key"].to_pylist() == sorted(EXPECTED)
    with pytest.raises(
        SourceError, match=rf"{name} is sorted into {SYNSETS[0]}, but .* lists it as n01440764"
    ):
        check_sorted(Location(source.root), listing)


def test_without_scipy_sorted_val_images_are_read_with_a_note(tmp_path, monkeypatch):
    """Without scipy, the folders decide the classes, and a note says that no table was read."""
    import sys

    root = write_folder(tmp_path, {f"val/{key}": b"1" for key in EXPECTED})
    write_devkit(root)
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    source = open_source(root, "val")
    listing = check_sorted(Location(source.root), source.list(lambda num_new: None))
    assert listing["key"].to_pylist() == sorted(EXPECTED)
    notes = Evidence.decode(listing.schema.metadata).notes
    assert "not compared with a table: reading" in notes[0]
    assert "needs scipy" in notes[0]
