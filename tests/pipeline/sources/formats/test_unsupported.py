"""Data sets of other tools are named, with advice on their conversion."""

import os

import google_crc32c
import pytest

from pipeline.errors import SourceError
from pipeline.sources import open_source
from tests.pipeline.sources.layouts import write_folder


def tfrecord(data: bytes) -> bytes:
    """Return one record as TensorFlow writes it, except for the checksum of its data."""
    length = len(data).to_bytes(8, "little")
    crc = google_crc32c.value(length)
    masked = (((crc >> 15) | (crc << 17)) + 0xA282EAD8) % 2**32
    return length + masked.to_bytes(4, "little") + data + bytes(4)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("x.h5", b"\x89HDF\r\n\x1a\n", "an HDF5 file, which is not supported. Write .* with h5py"),
        ("images", b"\x89HDF\r\n\x1a\n" + bytes(99), "an HDF5 file, .* with h5py"),
        ("train-00000-of-00002", tfrecord(b"x" * 99), "a TFRecord file, .* with tensorflow"),
        ("i-train.tfrecord-00000-of-00002", b"?", "a TFRecord file, .* with tensorflow"),
        ("train/shard.00000.mds.zstd", b"?", "a shard of MosaicML's MDS, .* mosaicml-streaming"),
        ("x.lmdb", bytes(16) + b"\xde\xc0\xef\xbe", "an LMDB, .* as data.mdb, and pass"),
        ("a/b/data-00000-of-00001.arrow", b"ARROW1", "an Arrow file, .*to_parquet"),
        ("x", b"\x93NUMPY\1\0", "a NumPy array, .* as PNG files"),
        ("train.rec", b"\x0a\x23\xd7\xce", "a RecordIO file, .* mxnet"),
        ("val.beton", b"?", "a file of FFCV"),
    ],
)
def test_data_sets_of_other_tools_are_named(tmp_path, name, data, message):
    """The error names a file by its suffix or first bytes, in a folder or by itself."""
    root = write_folder(tmp_path / "x", {name: data, "readme.md": b"x"})
    for path in (root, root / name):
        with pytest.raises(SourceError, match=f"no images found in .*: '.*' is {message}"):
            open_source(path, "train")


def test_the_first_of_many_files_is_named(tmp_path):
    """The error has one sentence for each kind, and none for other files."""
    files = {f"train/{number}.tfrecord": b"?" for number in range(9)}
    root = write_folder(tmp_path / "x", {**files, "meta.h5": b"?", "index.json": b"{}"})
    with pytest.raises(SourceError) as caught:
        open_source(root, "train")
    assert (
        "'train/0.tfrecord' is a TFRecord file, which is not supported, and there are more."
        in str(caught.value)
    )
    assert "'meta.h5' is an HDF5 file, which is not supported. Write" in str(caught.value)
    assert "json" not in str(caught.value)


def test_unreadable_files_are_no_data_set(tmp_path):
    """Broken links and pipes are not opened: a read of a pipe would wait forever."""
    root = write_folder(tmp_path / "x", {"x.tfrecord/labels.txt": b"?", "a/b/c.txt": b"?"})
    (root / "link").symlink_to(tmp_path / "nowhere")
    (root / "a/b/link").symlink_to(tmp_path / "nowhere")
    (root / "a/c").mkdir()
    (root / "a/c/loop").symlink_to(root / "a/c/loop")
    os.mkfifo(root / "pipe")
    with pytest.raises(SourceError, match=r"no images found in .*: expected <class>/<image>"):
        open_source(root, "train")
