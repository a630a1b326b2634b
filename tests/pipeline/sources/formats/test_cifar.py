"""CIFAR's pickled batches give unchanged pixels, and no code in them is run."""

from __future__ import annotations

import io
import os
import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipeline.errors import SourceError
from pipeline.sources import open_source, source_splits
from pipeline.sources.formats import cifar
from pipeline.sources.location import Location
from pipeline.sources.spool import spool_block, spool_listing
from tests.pipeline.sources.layouts import tar_bytes

NAMES = [b"plane", b"car", b"bird"]


def batch(count: int, seed: int = 0, **fields: Any) -> dict[bytes, Any]:
    rng = np.random.default_rng(seed)
    labels = [int(n) for n in rng.integers(0, 3, count)]
    data = rng.integers(0, 256, (count, 3072), np.uint8)
    return {b"data": data, b"labels": labels, b"batch_label": b"one", **fields}


def write(folder: Path, files: dict[str, Any], protocol: int = 2) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in files.items():
        (folder / name).write_bytes(pickle.dumps(value, protocol))
    return folder


def small_set(folder: Path, protocol: int = 2) -> dict[str, dict[bytes, Any]]:
    batches = {"data_batch_1": batch(5, 1), "data_batch_2": batch(3, 2), "test_batch": batch(2, 3)}
    write(folder, {**batches, "batches.meta": {b"label_names": NAMES}}, protocol)
    return batches


def read(root: Path, split: str, spool: Path) -> dict[str, bytes]:
    """Return key -> bytes of one split, through a spool."""
    spool.mkdir()
    blocks = open_source(root, split).blocks()
    for block in blocks:
        spool_block(block, str(spool))
    table = spool_listing(str(spool), blocks)
    return {
        key: (spool / str(path)).read_bytes()[offset : offset + length]
        for key, path, offset, length in zip(
            *(table[name].to_pylist() for name in ("key", "path", "offset", "num_bytes")),
            strict=True,
        )
    }


@pytest.mark.parametrize("protocol", [2, 4])
def test_each_image_has_its_pixels_and_its_class(tmp_path: Path, protocol: int) -> None:
    """Each image is a PPM, with its pixels unchanged."""
    files = small_set(tmp_path / "cifar", protocol)
    assert source_splits(tmp_path / "cifar") == ["test", "train"]
    images = read(tmp_path / "cifar", "train", tmp_path / "spool")
    assert len(images) == 8
    for name in ("data_batch_1", "data_batch_2"):
        for number, (row, label) in enumerate(
            zip(files[name][b"data"], files[name][b"labels"], strict=True)
        ):
            data = images[f"{NAMES[label].decode()}/{name}_{number:05d}.ppm"]
            with Image.open(io.BytesIO(data)) as image:
                assert image.format == "PPM"
                pixels = np.asarray(image)
            assert np.array_equal(pixels, row.reshape(3, 32, 32).transpose(1, 2, 0))
    assert len(read(tmp_path / "cifar", "test", tmp_path / "other")) == 2


def test_cifar_100_has_fine_labels(tmp_path: Path) -> None:
    """CIFAR-100 has other file names, and its fine labels are used."""
    fields = batch(4)
    fine = {**fields, b"fine_labels": fields.pop(b"labels"), b"coarse_labels": [0] * 4}
    write(tmp_path / "c", {"train": fine, "meta": {b"fine_label_names": NAMES}})
    assert len(read(tmp_path / "c", "train", tmp_path / "spool")) == 4


def test_a_missing_batch_of_an_archive_has_no_size(tmp_path: Path) -> None:
    """A name that the archive lacks is an error of the source, as in `load`."""
    small_set(tmp_path / "cifar-10-batches-py")
    with tarfile.open(tmp_path / "cifar-10-python.tar", "w") as tar:
        tar.add(tmp_path / "cifar-10-batches-py", "cifar-10-batches-py")
    location = Location.at(tmp_path / "cifar-10-python.tar")
    batches = cifar.find_cifar(location, "", False)["train"].batches
    size = (tmp_path / "cifar-10-batches-py" / "data_batch_1").stat().st_size
    assert batches.size("data_batch_1") == size
    for look_up in (batches.size, batches.load):
        with pytest.raises(SourceError, match=r"data_batch_9 is missing"):
            look_up("data_batch_9")


class Touch:
    """An object that runs a command when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.file}",)


class Getattr:
    """An object that reads an attribute when it is unpickled."""

    def __reduce__(self) -> Any:
        return getattr, ("x", "upper")


@pytest.mark.parametrize("where", ["instead", "inside", "as an array", "in the names"])
def test_code_in_a_pickle_is_not_run(tmp_path: Path, where: str) -> None:
    """A pickle that names a function is refused, and nothing is run."""
    root, file = tmp_path / "cifar", tmp_path / "touched"
    small_set(root)
    bad = Touch(file)
    target = "batches.meta" if where == "in the names" else "data_batch_2"
    value = {
        "instead": bad,
        "inside": batch(2, x=bad),
        "as an array": {**batch(2), b"data": bad},
        "in the names": {b"label_names": [bad]},
    }[where]
    write(root, {target: value})
    with pytest.raises(SourceError, match=r"Nothing in it was executed.*Download it again"):
        read(root, "train", tmp_path / "spool")
    assert not file.exists()
    pickle.loads((root / target).read_bytes())  # it would have
    assert file.exists()


@pytest.mark.parametrize(
    "value",
    [
        Getattr(),
        [1, 2],
        {b"data": np.zeros((2, 3072), np.float32), b"labels": [0, 0]},
        {b"data": np.zeros((2, 3072), object), b"labels": [0, 0]},
        {b"data": np.zeros((2, 100), np.uint8), b"labels": [0, 0]},
        {b"data": np.asfortranarray(np.zeros((2, 3072), np.uint8)), b"labels": [0, 0]},
        {b"data": np.zeros((2, 3072), np.uint8), b"labels": [0]},
        {b"data": np.zeros((2, 3072), np.uint8), b"labels": [0, 3]},
        {b"data": np.zeros((2, 3072), np.uint8), b"labels": [0, -1]},
        {b"data": np.zeros((2, 3072), np.uint8)},
        {b"labels": [0, 0]},
        {b"data": b"x" * 6144, b"labels": [0, 0]},
    ],
)
def test_files_that_are_no_batches_are_refused(tmp_path: Path, value: Any) -> None:
    """A file that is no batch is refused before any of its data are used."""
    small_set(tmp_path / "cifar")
    write(tmp_path / "cifar", {"data_batch_2": value})
    with pytest.raises(SourceError, match="data_batch_2"):
        read(tmp_path / "cifar", "train", tmp_path / "spool")


@given(data=st.data())
def test_damage_is_refused_or_harmless(data: st.DataObject) -> None:
    """A damaged pickle raises SourceError, or gives an array of bytes."""
    pickled = bytearray(pickle.dumps({b"data": np.zeros((1, 3072), np.uint8), b"labels": [0]}, 2))
    for _ in range(data.draw(st.integers(1, 4))):
        pickled[data.draw(st.integers(0, 200))] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        del pickled[data.draw(st.integers(1, len(pickled) - 1)) :]
    try:
        fields = cifar._unpickle_batch(io.BytesIO(bytes(pickled)), "x")
        cifar._pixels_in_batch(fields.get(b"data"), "x")
    except SourceError:
        pass


def test_names_in_a_pickle_take_no_memory() -> None:
    """A pickle that names a far index, changes an array class or leaves bytes takes no memory."""
    for data in (b"\x80\x02Nr" + (2**31 - 1).to_bytes(4, "little") + b".",
                 b"c_codecs\nencode\n}(X\x01\x00\x00\x00aK\x01ub."):  # fmt: skip
        with pytest.raises(SourceError):
            cifar._unpickle_batch(io.BytesIO(data), "x")
    array = cifar._PickledArray()
    array.shape, array.data = (1, 3072), bytes(3073)
    with pytest.raises(SourceError, match="has no data"):
        cifar._pixels_in_batch(array, "x")


def packed(folder: Path, inner: str = "cifar-10-batches-py") -> bytes:
    """Return the tar.gz of a folder of batches, as distributed."""
    files = {f"{inner}/{path.name}": path.read_bytes() for path in sorted(folder.iterdir())}
    return tar_bytes({**files, f"{inner}/readme.html": b"<html>"}, "w:gz")


@pytest.mark.parametrize("inner", ["cifar-10-batches-py", "a/b", "x"])
@pytest.mark.parametrize("name", ["cifar-10-python.tar.gz", "cifar-10-python.tar", "download"])
def test_the_archive_is_read_as_distributed(tmp_path, name, inner):
    """The archive gives the same keys and pixels as the unpacked folder."""
    small_set(tmp_path / inner.rpartition("/")[2])
    data = packed(tmp_path / inner.rpartition("/")[2], inner)
    loose = tmp_path / inner.rpartition("/")[2]
    (tmp_path / "y").mkdir()
    (tmp_path / "y" / name).write_bytes(data)
    roots = [tmp_path / "y" / name]
    if name.startswith("cifar"):
        roots.append(tmp_path / "y")
    if inner == "cifar-10-batches-py":
        roots.append(tmp_path)
    for number, root in enumerate(roots):
        assert open_source(root, "train").kind == "cifar"
        assert source_splits(root) == ["test", "train"]
        for split in ("train", "test"):
            expected = read(loose, split, tmp_path / f"loose {number} {split}")
            assert read(root, split, tmp_path / f"packed {number} {split}") == expected
            assert len(expected) == {"train": 8, "test": 2}[split]


def test_cifar_100_is_read_from_its_archive(tmp_path):
    """The archive of CIFAR-100 is read; its labels are fine and coarse."""
    data = batch(4)
    data[b"fine_labels"] = data.pop(b"labels")
    meta = {b"fine_label_names": NAMES, b"coarse_label_names": [b"thing"]}
    write(tmp_path / "x", {"train": data, "test": data, "meta": meta})
    path = tmp_path / "cifar-100-python.tar.gz"
    path.write_bytes(packed(tmp_path / "x", "cifar-100-python"))
    assert read(path, "test", tmp_path / "a") == read(tmp_path / "x", "test", tmp_path / "b")


def test_a_truncated_archive_is_refused(tmp_path):
    """A truncated archive is refused when it is detected or when a batch is read."""
    small_set(tmp_path / "x")
    path = tmp_path / "cifar-10-python.tar.gz"
    archive = packed(tmp_path / "x")
    path.write_bytes(archive[: len(archive) // 2])
    with pytest.raises(SourceError, match=r"cifar-10-python\.tar\.gz is not a complete tar"):
        read(path, "train", tmp_path / "spool")


def test_the_binary_version_is_named(tmp_path):
    """The error for the binary version of CIFAR asks for the Python version."""
    path = tmp_path / "cifar-10-binary.tar.gz"
    names = ("data_batch_1.bin", "batches.meta.txt", "test_batch.bin")
    path.write_bytes(tar_bytes({f"cifar-10-batches-bin/{name}": b"x" for name in names}, "w:gz"))
    with pytest.raises(SourceError, match=r"binary version of CIFAR: .* cifar-10-python\.tar\.gz"):
        open_source(path, "train")


def test_a_missing_batch_is_reported(tmp_path):
    """A missing batch is noticed in the middle, and at the end of the real set."""
    batches = {f"data_batch_{n}": batch(2, n) for n in (1, 3)}
    root = write(tmp_path / "x", {**batches, "batches.meta": {b"label_names": NAMES}})
    with pytest.raises(SourceError, match=r"lacks data_batch_2 of its 3 batches"):
        open_source(root, "train").blocks()
    write(root, {"data_batch_2": batch(1, 2)})
    assert len(open_source(root, "train").blocks()) == 3
    write(root, {"batches.meta": {b"label_names": NAMES, b"num_cases_per_batch": 10000}})
    with pytest.raises(SourceError, match=r"lacks data_batch_4, data_batch_5 of its 5 batches"):
        open_source(root, "train").blocks()
