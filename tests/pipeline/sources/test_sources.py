"""The detection of sources, and the promise of one listing for every layout of a set."""

import os
import pickle
from pathlib import Path

import fsspec
import google_crc32c
import pytest

from pipeline.errors import SourceError
from pipeline.sources import SOURCE_KINDS, check_split_name, open_source, source_splits
from pipeline.sources.listing import listing_digest
from pipeline.sources.location import Location
from pipeline.sources.reader import SourceReader
from pipeline.sources.source import Source
from pipeline.sources.spool import spool_block, spool_listing
from tests.pipeline.sources.layouts import (
    LAYOUTS,
    made_pictures,
    tar_bytes,
    write_class_tars,
    write_folder,
    write_parquet_hub,
    write_tar_of_tars,
    write_webdataset,
)


def read_all(source: Source, spool: Path) -> tuple[str, dict[str, bytes]]:
    """Return the digest of the listing and the bytes of every key, by either access."""
    if source.access == "random":
        listing, reader = source.list(lambda num_new: None), SourceReader(source.root)
    else:
        spool.mkdir()
        for block in source.blocks():
            spool_block(pickle.loads(pickle.dumps(block)), str(spool))
        listing, reader = spool_listing(str(spool), source.blocks()), SourceReader(str(spool))
    rows = listing.to_pylist()
    read = {
        row["key"]: reader.read(row.get("path", row["key"]), row.get("offset"), row["num_bytes"])
        for row in rows
    }
    for row in rows:
        if "crc32c" in row:
            assert row["crc32c"] == google_crc32c.value(read[row["key"]])
    reader.close()
    return listing_digest(listing), read


def upload(folder: Path, url: str) -> None:
    filesystem, base = fsspec.core.url_to_fs(url)
    for path in folder.rglob("*"):
        if path.is_file():
            filesystem.pipe_file(f"{base}/{path.relative_to(folder)}", path.read_bytes())


@pytest.mark.parametrize("where", ["local", "file://", "memory://"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_listing_and_the_same_bytes(tmp_path, layout, where):
    """The digest equals that of the folder, and each key leads to its own bytes."""
    pictures = made_pictures()
    folder = open_source(write_folder(tmp_path / "folder", pictures), "train")
    expected = listing_digest(folder.list(lambda num_new: None))

    root = LAYOUTS[layout](tmp_path / "laid out", pictures)
    location = {"local": str(root), "file://": f"file://{root}"}.get(where, f"memory://{tmp_path}")
    if where == "memory://":
        upload(root, location)
    source = open_source(location, "train")

    assert source.kind == layout.split()[0]
    blocks = "parquet" in layout or "gz" in layout or (where == "memory://" and layout != "folder")
    assert source.access == ("blocks" if blocks else "random")
    digest, read = read_all(source, tmp_path / "spool")
    assert digest == expected
    assert read == pictures


@pytest.mark.parametrize("layout", LAYOUTS)
def test_listing_reports_its_progress(tmp_path, layout):
    """The numbers that `progress` receives add up to the number of samples."""
    source = open_source(LAYOUTS[layout](tmp_path / "x", made_pictures()), "train")
    if source.access == "random":
        seen: list[int] = []
        source.list(seen.append)
        assert sum(seen) == 40


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_fingerprint_changes_only_with_the_files(tmp_path, layout):
    """A fingerprint is stable until a file is added or an archive is rewritten."""
    pictures = made_pictures()
    root = LAYOUTS[layout](tmp_path / "x", pictures)
    before = open_source(root, "train").fingerprint()
    assert open_source(root, "train").fingerprint() == before
    if layout == "folder":
        (root / "n01440764" / "one more.JPEG").write_bytes(b"x")
    else:
        archive = max(root.rglob("*.*"))
        archive.write_bytes(archive.read_bytes() + b"\0")
    if layout != "webdataset" or archive.suffix == ".tar":
        assert open_source(root, "train").fingerprint() != before


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_wrong_kind_is_refused_with_its_requirements(tmp_path, layout):
    """The error for a kind that is not there says what that kind needs."""
    root = LAYOUTS[layout](tmp_path / "x", made_pictures())
    own = open_source(root, "train").kind
    # any tar may be called a shard, a tree or a class: a person who names one of these knows
    tars = {"class-tars", "webdataset", "tar", "ilsvrc-tar"}
    for kind in set(SOURCE_KINDS) - {own, "folder"} - (tars if own in tars else set()):
        with pytest.raises(SourceError, match=f"not a source of kind '{kind}': looked for"):
            open_source(root, "train", kind)


def test_an_unknown_kind_is_refused_with_the_known_ones(tmp_path):
    """The message lists the known kinds."""
    with pytest.raises(SourceError, match=r"no source kind 'zip': expected one of kaggle"):
        open_source(tmp_path, "train", "zip")


def test_several_kinds_in_one_location_are_refused_with_their_names(tmp_path):
    """Class folders beside their tar are refused until the user names the kind."""
    write_tar_of_tars(tmp_path / "x", made_pictures())
    write_folder(tmp_path / "x" / "train", made_pictures())
    with pytest.raises(SourceError, match=r"'train': folder, ilsvrc-tar. Pass one of them with"):
        open_source(tmp_path / "x", "train")
    assert open_source(tmp_path / "x", "train", "folder").kind == "folder"
    assert open_source(tmp_path / "x", "train", "ilsvrc-tar").kind == "ilsvrc-tar"


def test_an_empty_or_missing_folder_is_refused(tmp_path):
    """The error for an empty or missing folder says what to pass."""
    with pytest.raises(SourceError, match=r"no images found in .* Pass the folder or archive"):
        open_source(tmp_path, "train")
    with pytest.raises(SourceError, match=r"no source at .*missing"):
        open_source(tmp_path / "missing", "train")


def test_an_empty_set_of_the_named_kind_is_refused(tmp_path):
    """Class folders or tars without images are refused."""
    (tmp_path / "cat").mkdir()
    with pytest.raises(SourceError, match="no images found"):
        open_source(tmp_path, "train", "folder").list(lambda num_new: None)
    (tmp_path / "x.tar").write_bytes(tar_bytes({"readme.txt": b"x"}))
    for kind in ("webdataset", "tar", "class-tars"):
        with pytest.raises(SourceError, match="no images found"):
            open_source(tmp_path, "train", kind).list(lambda num_new: None)
    (tmp_path / "x.tar").rename(tmp_path / "x.tar.old")
    (tmp_path / "x.tar.gz").write_bytes(tar_bytes({"readme.txt": b"x"}, "w:gz"))
    (tmp_path / "spool").mkdir()
    blocks = open_source(tmp_path, "train", "webdataset").blocks()
    spool_block(blocks[0], str(tmp_path / "spool"))
    with pytest.raises(SourceError, match="no images found in 1 blocks"):
        spool_listing(str(tmp_path / "spool"), blocks)


def test_splits_are_found_in_folders_and_names(tmp_path):
    """Folders and names tell the splits; `validation` is val, and a single split has no name."""
    pictures = made_pictures()
    write_folder(tmp_path / "two" / "train", pictures)
    write_folder(tmp_path / "two" / "validation", pictures)
    assert source_splits(tmp_path / "two") == ["train", "val"]
    assert open_source(tmp_path / "two", "validation").root.endswith("validation")
    assert open_source(tmp_path / "two", "val").root.endswith("validation")
    assert source_splits(tmp_path / "two" / "train") == []
    assert open_source(tmp_path / "two" / "train", "anything").kind == "folder"

    write_webdataset(tmp_path / "tars", pictures)
    for tar in sorted((tmp_path / "tars").glob("*.tar"))[:2]:
        tar.rename(tar.with_name(tar.name.replace("shard", "set-train")))
    last = next((tmp_path / "tars").glob("shard*.tar"))
    last.rename(last.with_name("set-val-0.tar"))
    assert source_splits(tmp_path / "tars") == ["train", "val"]
    assert len(open_source(tmp_path / "tars", "val").list(lambda num_new: None)) == 13

    write_class_tars(tmp_path / "classes" / "train", pictures)
    assert source_splits(tmp_path / "classes") == ["train"]


def test_archives_without_a_split_are_left_out_where_others_have_one(tmp_path):
    """The file extra.parquet beside train-0.parquet is in no split."""
    write_parquet_hub(tmp_path, made_pictures())
    (tmp_path / "data" / "extra.parquet").write_bytes(b"not looked at")
    assert source_splits(tmp_path) == ["train"]
    with pytest.raises(SourceError, match="no split 'val': it holds train"):
        open_source(tmp_path, "val")


def test_a_missing_split_is_refused_with_the_existing_ones(tmp_path):
    """The error lists the splits that --split may name."""
    write_folder(tmp_path / "train", made_pictures())
    with pytest.raises(SourceError, match=r"no split 'test': it holds train"):
        open_source(tmp_path, "test")


def test_a_split_may_have_a_name_of_its_own(tmp_path):
    """The option `--split unusual` reads unusual/<class>/<file>."""
    write_folder(tmp_path / "unusual", made_pictures())
    write_folder(tmp_path / "train", made_pictures())
    assert open_source(tmp_path, "unusual").root.endswith("unusual")


def test_a_class_called_train_is_a_class(tmp_path):
    """A folder train that holds images is a class; only a folder of folders is a split."""
    write_folder(tmp_path, {"train/a.jpg": b"1", "bird/b.jpg": b"2"})
    listing = open_source(tmp_path, "train").list(lambda num_new: None)
    assert listing["key"].to_pylist() == ["bird/b.jpg", "train/a.jpg"]


def test_a_folder_without_permission_has_no_files(tmp_path, monkeypatch):
    """Tests for files in a folder without read permission are false, and raise nothing."""
    (tmp_path / "private").mkdir()
    location = Location.at(tmp_path)
    stat = os.stat

    def refuse(path, **how):
        if "private/" in os.fspath(path):
            raise PermissionError(13, "Permission denied", path)
        return stat(path, **how)

    monkeypatch.setattr(os, "stat", refuse)
    assert location.is_folder("private")
    assert not location.is_file("private/data.mdb")
    assert not location.is_folder("private/train")


def test_a_single_archive_may_be_the_source(tmp_path):
    """A tar or a Parquet file may itself be the source."""
    pictures = made_pictures()
    root = write_webdataset(tmp_path / "x", pictures)
    source = open_source(root / "shard-000001.tar", "train")
    assert source.kind == "webdataset"
    assert len(source.list(lambda num_new: None)) == 13
    assert source.root == str(root)
    root = write_tar_of_tars(tmp_path / "y", pictures)
    (root / "ILSVRC2012_img_train.tar").rename(root / "t3.tar")
    assert open_source(root / "t3.tar", "train").kind == "ilsvrc-tar"


def test_random_sources_have_no_blocks_and_block_sources_no_listing(tmp_path):
    """The wrong access raises an error, and does not return an empty result."""
    for name, write in LAYOUTS.items():
        source = open_source(write(tmp_path / name, made_pictures()), "train")
        with pytest.raises(SourceError, match=r"read at random|read in blocks"):
            source.blocks() if source.access == "random" else source.list(lambda num_new: None)


def test_archives_of_one_split_in_two_folders_are_refused(tmp_path):
    """Archives in `val` and in `validation` are refused: they may be copies, or two sets."""
    for folder in ("val", "validation"):
        (tmp_path / folder).mkdir()
        members = {f"{folder}.jpg": b"1", f"{folder}.cls": b"0"}
        (tmp_path / folder / "s-0.tar").write_bytes(tar_bytes(members))
    with pytest.raises(SourceError, match="2 folders of the split 'val': val, validation"):
        open_source(tmp_path, "val")


def test_archives_of_a_split_called_data_are_listed_once(tmp_path):
    """The folder `data` is searched for any split, and may itself be a split."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "s-0.tar").write_bytes(tar_bytes({"a.jpg": b"1", "a.cls": b"0"}))
    assert len(open_source(tmp_path, "data").list(lambda num_new: None)) == 1


def test_a_misspelt_split_is_refused(tmp_path, monkeypatch):
    """A misspelt split is refused if the source tells no split, and its folder is not so named."""
    root = write_folder(tmp_path / "photos", {"a.jpg": b"x"})
    for split, meant in (("vall", "val"), ("trian", "train"), ("tset", "test"), ("va", "val")):
        with pytest.raises(SourceError, match=rf"--split is '{split}': did you mean {meant}\?"):
            check_split_name(root, split)
    for split in ("val", "valid", "trainA", "test2", "eval", "rest", "mine", "trainval"):
        check_split_name(root, split)
    named = write_folder(tmp_path / "photos-vall", {"a.jpg": b"x"})
    check_split_name(named, "vall")
    monkeypatch.chdir(named)
    check_split_name(".", "vall")
    with_splits = write_folder(tmp_path / "x", {"train/cat/a.jpg": b"x"})
    check_split_name(with_splits, "vall")  # that it holds none such is what opening it says
