"""Archives are detected by their content, not by their names."""

import gzip
import io
import itertools
import zipfile
from pathlib import Path

import pytest

from pipeline.errors import SourceError
from pipeline.sources import open_source, source_splits
from pipeline.sources.archives import outline
from pipeline.sources.listing import listing_digest
from pipeline.sources.options import SourceOptions
from tests.pipeline.sources.layouts import (
    PACKED,
    class_tars,
    made_pictures,
    shard_members,
    tar_bytes,
    write_folder,
    write_parquet_hub,
)
from tests.pipeline.sources.test_sources import read_all

_spools = itertools.count()
NAMES = ("x.tar", "x.tar.gz", "x.tgz", "x.zip", "x.parquet", "x", "x.jpg", "x.tar.bz2")


def zip_bytes(members: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as packed:
        for name, data in members.items():
            packed.writestr(name, data)
    return out.getvalue()


def keys(root: Path, split: str = "train", kind: str | None = None) -> list[str]:
    source = open_source(root, split, kind)
    _, read = read_all(source, root.parent / f"spool{next(_spools)}")
    return sorted(read)


@pytest.mark.parametrize("packing", PACKED)
@pytest.mark.parametrize("layout", ["tree", "shard", "tars"])
def test_a_tar_is_read_whatever_its_suffix(tmp_path, layout, packing):
    """An archive under any name has the same kind, listing and bytes."""
    pictures = made_pictures()
    members = {"tree": pictures, "shard": shard_members(pictures), "tars": class_tars(pictures)}
    (tmp_path / "classes.txt").write_text("\n".join(sorted({k.split("/")[0] for k in pictures})))
    data = PACKED[packing](tar_bytes(members[layout]))
    folder = open_source(write_folder(tmp_path / "folder", pictures), "train")
    expected = listing_digest(folder.list(lambda num_new: None))
    kinds = {"tree": "tar", "shard": "webdataset", "tars": "ilsvrc-tar"}
    for number, name in enumerate(NAMES):
        (tmp_path / name).write_bytes(data)
        source = open_source(tmp_path / name, "train")
        assert source.kind == kinds[layout], name
        assert source.access == ("random" if packing == "plain" else "blocks")
        digest, read = read_all(source, tmp_path / f"spool{number}")
        assert (digest, read) == (expected, pictures)
        (tmp_path / name).unlink()


def test_a_parquet_file_may_have_any_name(tmp_path):
    """A Parquet file is found under a digest, as in the Hub's cache."""
    pictures = made_pictures()
    path = next(write_parquet_hub(tmp_path / "hub", pictures).rglob("*.parquet"))
    for name in ("4f1c0d3a", "train.tar", "train.zip"):
        (tmp_path / name).mkdir()
        path = path.rename(tmp_path / name / name)
        for root in (path, path.parent):
            assert open_source(root, "train").kind == "parquet"
        assert keys(path) == sorted(pictures)


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("layout", ["tree", "shard"])
def test_a_zip_is_read_like_a_tar(tmp_path, layout, compression):
    """A zip gives the same listing as a tar, with or without its suffix."""
    pictures = made_pictures()
    (tmp_path / "classes.txt").write_text("\n".join(sorted({k.split("/")[0] for k in pictures})))
    members = {"tree": pictures, "shard": shard_members(pictures)}[layout]
    (tmp_path / "x").mkdir()
    for root in (tmp_path / "x" / "set.zip", tmp_path / "x"):
        (tmp_path / "x" / "set.zip").write_bytes(zip_bytes(members, compression))
        source = open_source(root, "train")
        assert (source.kind, source.access) == (
            {"tree": "tar", "shard": "webdataset"}[layout],
            "blocks",
        )
        _, read = read_all(source, tmp_path / f"spool {root.name}")
        assert read == pictures


def test_a_zip_that_is_damaged_cut_or_encrypted_is_refused(tmp_path):
    """A zip is checked by the directory at its end and by the checksum of each member."""
    pictures = {f"cat/{i}.jpg": bytes([i]) * 3000 for i in range(5)}
    archive = zip_bytes(pictures, zipfile.ZIP_STORED)
    path = tmp_path / "x.zip"
    path.write_bytes(archive[:-40])
    with pytest.raises(
        SourceError, match=r"x\.zip is not a complete zip: .* was cut off or damaged"
    ):
        keys(path)
    path.write_bytes(archive.replace(bytes([3]) * 3000, bytes([3]) * 2999 + b"!"))
    with pytest.raises(SourceError, match=r"at the member 'cat/3\.jpg': Bad CRC-32"):
        keys(path)
    encrypted = bytearray(archive)
    for start in (archive.index(b"PK\x03\x04") + 6, archive.index(b"PK\x01\x02") + 8):
        encrypted[start] |= 1
    path.write_bytes(encrypted)
    with pytest.raises(SourceError, match=r"the member 'cat/0\.jpg' is encrypted. Unzip it with"):
        keys(path)
    path.write_bytes(zip_bytes(class_tars(made_pictures())))
    with pytest.raises(SourceError, match=r"a zip that holds archives.* Unzip it"):
        keys(path)


def test_a_zip_from_windows_has_slashes_and_one_from_unix_links(tmp_path):
    """A link in a zip stands for the bytes of its target, as in a tar."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as packed:
        info = zipfile.ZipInfo("x")
        info.filename, info.create_system = "set\\cat\\a.jpg", 0
        packed.writestr(info, b"1")
        link = zipfile.ZipInfo("set/dog/b.jpg")
        link.create_system, link.external_attr = 3, 0o120777 << 16
        packed.writestr(link, "../cat/a.jpg")
    (tmp_path / "x.zip").write_bytes(out.getvalue())
    _, read = read_all(open_source(tmp_path / "x.zip", "train"), tmp_path / "spool")
    assert read == {"cat/a.jpg": b"1", "dog/b.jpg": b"1"}


@pytest.mark.parametrize("packing", PACKED)
def test_images_behind_many_annotations_are_found(tmp_path, packing):
    """Kaggle's ILSVRC2012 archive has half a million annotations before its images."""
    data = "ILSVRC/Data/CLS-LOC"
    members = {f"ILSVRC/Annotations/CLS-LOC/train/n01440764/{i}.xml": b"<a/>" for i in range(300)}
    members |= {f"{data}/train/n01440764/n01440764_{i}.JPEG": bytes([i]) for i in range(3)}
    members |= {f"{data}/val/n01443537/ILSVRC2012_val_00000001.JPEG": b"v"}
    path = tmp_path / "imagenet_object_localization_patched2019.tar.gz"
    path.write_bytes(PACKED[packing](tar_bytes(members)))
    assert source_splits(path) == ["train", "val"]
    for kind in (None, "tar"):
        assert open_source(path, "train", kind).kind == "tar"
    assert keys(path) == [f"n01440764/n01440764_{i}.JPEG" for i in range(3)]
    assert keys(path, "val") == ["n01443537/ILSVRC2012_val_00000001.JPEG"]


@pytest.mark.parametrize("packing", PACKED)
@pytest.mark.parametrize("name", ["winter21_whole.tar.gz", "fall11_whole.tar", "x"])
def test_imagenet_21k_is_read_as_distributed(tmp_path, packing, name):
    """A compressed tar with a folder of class tars is read by itself or from its folder."""
    pictures = made_pictures()
    members = {f"winter21_whole/{tar}": data for tar, data in class_tars(pictures).items()}
    (tmp_path / "x").mkdir()
    path = tmp_path / "x" / name
    path.write_bytes(PACKED[packing](tar_bytes(members)))
    for root in (path, path.parent):
        assert open_source(root, "train").kind == "ilsvrc-tar"
    assert keys(path) == sorted(pictures)


def test_an_outline_stops_at_the_first_class_tar(tmp_path):
    """The first class tar decides: the first 64 of ImageNet-21K are too large to unpack."""
    members = class_tars(made_pictures())
    first = next(iter(members))
    packed = gzip.compress(tar_bytes({first: members[first], "z.tar": bytes(1 << 20)}))
    (tmp_path / "x.tgz").write_bytes(packed[:-30_000] if len(packed) > 60_000 else packed[:-900])
    assert open_source(tmp_path / "x.tgz", "train").kind == "ilsvrc-tar"


@pytest.mark.parametrize("packing", ["plain", "gz"])
def test_an_outline_is_cached_until_its_archive_changes(tmp_path, monkeypatch, packing):
    """Several openings of a source unpack its archive once, since that may be gigabytes."""
    looked = []
    opened = outline.open_tar
    monkeypatch.setattr(outline, "open_tar", lambda *at: looked.append(at) or opened(*at))
    file = tmp_path / "x.tar"

    def looks(members: dict[str, bytes]) -> int:
        looked.clear()
        file.write_bytes(PACKED[packing](tar_bytes(members)))
        for _ in range(3):
            assert source_splits(file) == ["train"]
            assert open_source(file, "train").kind == "tar"
        return len(looked)

    first = {f"train/{key}": data for key, data in made_pictures().items()}
    assert looks(first) <= 2
    assert 0 < looks({**first, "train/n1/more.JPEG": b"x"}) <= 2


def test_outlines_of_listing_rules_1_stop_at_the_first_end(tmp_path):
    """Listing rules 1 ignore members behind the first end, as when those stores were prepared."""
    members = {f"train/{key}": data for key, data in made_pictures().items()}
    file = tmp_path / "x.tar"
    file.write_bytes(tar_bytes(members) + b"junk" * 999)
    for _ in range(2):  # in either order: a look under other rules is another look
        assert source_splits(file, None, SourceOptions(rules=1)) == ["train"]
        with pytest.raises(SourceError, match="ends at byte"):
            source_splits(file)


def test_files_that_were_set_aside_are_not_read(tmp_path):
    """Files such as `x.tar.old` and `x.tar.part` beside archives are ignored."""
    pictures = made_pictures()
    for name in ("a.tar", "a.tar.old", "b.tar.part"):
        (tmp_path / name).write_bytes(tar_bytes(pictures))
    source = open_source(tmp_path, "train")
    assert [part.path for part in source.parts] == ["a.tar"]


def test_other_content_in_place_of_an_archive_is_named(tmp_path):
    """The error names the content of a file that is no archive, alone or in a folder."""
    page = b"<!DOCTYPE html><title>Sign in</title>" + b" " * 2000
    for name, message in (("t.tar", "not a tar: it is"), ("t", "not an archive of images: it is")):
        (tmp_path / name).write_bytes(page)
        with pytest.raises(SourceError, match=f"{message} an HTML page"):
            open_source(tmp_path / name, "train")
    (tmp_path / "x.tgz").write_bytes(gzip.compress(page))
    with pytest.raises(SourceError, match=r"x\.tgz is not a tar: it is an HTML page"):
        open_source(tmp_path / "x.tgz", "train")
    (tmp_path / "y.gz").write_bytes(gzip.compress(b"\0\0\x08\3" + b"idx of other software"))
    with pytest.raises(SourceError, match=r"not an archive of images: it is a gzip archive"):
        open_source(tmp_path / "y.gz", "train")


def test_an_invalid_shard_is_named_before_others_are_streamed(tmp_path):
    """A Git LFS pointer among shards is refused before any shard is streamed."""
    data = gzip.compress(tar_bytes(shard_members(made_pictures())))
    for number in range(3):
        (tmp_path / f"s-{number}.tar.gz").write_bytes(data)
    (tmp_path / "s-2.tar.gz").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(SourceError, match=r"s-2\.tar\.gz is not a tar: it is a Git LFS pointer"):
        open_source(tmp_path, "train").blocks()


def test_archives_without_a_split_beside_others_are_reported(tmp_path):
    """Archives without a split in their names are left out, and the command reports them."""
    for name in ("train-0.tar", "val-0.tar", "extra.tar"):
        (tmp_path / name).write_bytes(tar_bytes(made_pictures()))
    source = open_source(tmp_path, "train")
    assert (source.left_out, source_splits(tmp_path)) == (("extra.tar",), ["train", "val"])
    write_parquet_hub(tmp_path / "x", made_pictures())
    (tmp_path / "x" / "data" / "extra.parquet").write_bytes(b"PAR1")
    assert open_source(tmp_path / "x", "train").left_out == ("data/extra.parquet",)


@pytest.mark.parametrize("packing", ["plain", "gz"])
def test_listings_of_listing_rules_1_stop_at_the_first_end(tmp_path, packing):
    """Listing rules 1 list only members before the first end, so that old stores stay valid."""
    path = tmp_path / "all.tar"
    parts = [tar_bytes({f"{name}/1.jpg": b"1"}) for name in ("cat", "dog")]
    path.write_bytes(PACKED[packing](b"".join(parts)))
    for rules, classes in ((1, ["cat"]), (2, ["cat", "dog"])):
        source = open_source(path, "train", None, SourceOptions(rules=rules))
        _, read = read_all(source, tmp_path / f"spool{rules}")
        assert sorted(read) == [f"{name}/1.jpg" for name in classes]
