"""Nothing outside a folder is written or removed, whatever names and links it contains."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import confined
from pipeline.errors import StoreDamagedError, StoreError
from pipeline.store import lease
from pipeline.store.local import LocalObjects
from pipeline.store.open import open_objects

OUTSIDE = (
    "../victim/keys",
    "samples/../../victim/keys",
    "/etc/passwd",
    "//etc/passwd",
    "samples//train.parquet",
    "./recipe.json",
    "samples/.",
    "samples/",
    "",
    "samples\\..\\..\\keys",
    "samples/train\0.parquet",
    "samples/train\n.parquet",
    "a" * 5_000,
    "é" * 3_000,
)
"""Names that no object may have."""


@pytest.fixture
def victim(tmp_path):
    """Return a folder beside the store that a command must not change."""
    folder = tmp_path / "victim"
    (folder / "train-x").mkdir(parents=True)
    (folder / "keys").write_text("mine")
    (folder / "train-x" / "thesis").write_text("mine too")
    return folder


def everything(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Return all files of *folder* with bytes and modification times, and all folders."""
    return {
        str(path.relative_to(folder)): (
            path.read_bytes() if path.is_file() else b"",
            path.lstat().st_mtime_ns,
        )
        for path in sorted(folder.rglob("*"))
    }


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_name_that_leaves_the_folder_is_refused(name):
    """Names with `..`, absolute names and others that no object has are refused."""
    with pytest.raises(StoreDamagedError, match="not a valid name of an object"):
        confined.check_name(name)


@given(st.lists(st.sampled_from(["..", ".", "", "a", "b", "\\", "~", "a\0"]), max_size=6))
def test_an_accepted_name_stays_inside_the_folder(parts):
    """A name with any parts is refused, or its path lies in the folder."""
    name = "/".join(parts)
    try:
        confined.check_name(name)
    except StoreDamagedError:
        return
    assert Path(os.path.normpath(f"/root/{name}")).is_relative_to("/root/")
    assert os.path.normpath(f"/root/{name}") != "/root"


OPERATIONS: dict[str, Callable[[LocalObjects, str], object]] = {
    "get": lambda objects, name: objects.get(name),
    "read": lambda objects, name: objects.read(name, 0, 1),
    "open": lambda objects, name: objects.open(name),
    "size": lambda objects, name: objects.size(name),
    "put": lambda objects, name: objects.put(name, b"x"),
    "put_new": lambda objects, name: objects.put_new(name, b"x"),
    "create": lambda objects, name: objects.create(name),
    "remove": lambda objects, name: objects.remove(name),
}


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("url", ["folder", "memory"])
def test_objects_refuse_names_outside_the_store(tmp_path, victim, url, operation):
    """Stores on disks and on object stores refuse the names alike."""
    at = str(tmp_path / "store") if url == "folder" else f"memory://{tmp_path.name}/store"
    objects = open_objects(at, "train-1")
    objects.begin()
    before = everything(victim)
    for name in OUTSIDE:
        with pytest.raises(StoreDamagedError):
            OPERATIONS[operation](objects, name)
    assert everything(victim) == before


WRITES = ("put", "put_new", "create", "remove")


@pytest.mark.parametrize("operation", WRITES)
@pytest.mark.parametrize("link", ["samples", "samples/train.parts"])
def test_no_write_follows_a_link_to_another_folder(tmp_path, victim, link, operation):
    """The error names the linked folder and its target."""
    store = tmp_path / "store"
    objects = LocalObjects(str(store), "train-1")
    objects.begin()
    (store / link).parent.mkdir(exist_ok=True)
    (store / link).symlink_to(victim)
    before = everything(victim)
    with pytest.raises(StoreError, match=f"leads to {victim}"):
        OPERATIONS[operation](objects, f"{link}/keys")
    assert everything(victim) == before


def test_a_missing_folder_is_not_created_through_a_link(tmp_path, victim):
    """No folder is created outside of the store."""
    store = tmp_path / "store"
    objects = LocalObjects(str(store), "train-1")
    objects.begin()
    (store / "samples").symlink_to(victim / "new")
    with pytest.raises(StoreError, match="by a symbolic link"):
        objects.put("samples/train.parts/000000.parquet", b"x")
    assert not (victim / "new").exists()


def test_a_link_in_place_of_an_object_is_replaced(tmp_path, victim):
    """The target keeps its bytes, and a file replaces the link."""
    objects = LocalObjects(str(tmp_path / "store"), "train-1")
    objects.begin()
    (tmp_path / "store" / "recipe.json").symlink_to(victim / "keys")
    objects.put("recipe.json", b"new")
    assert (victim / "keys").read_text() == "mine"
    assert not (tmp_path / "store" / "recipe.json").is_symlink()
    (tmp_path / "store" / "other.json").symlink_to(victim / "keys")
    objects.remove("other.json")
    assert (victim / "keys").read_text() == "mine"


def test_links_inside_and_to_a_store_are_followed(tmp_path):
    """A store may be reached through a link, and a folder may link to another inside."""
    (tmp_path / "disk" / "store" / "a").mkdir(parents=True)
    (tmp_path / "store").symlink_to(tmp_path / "disk" / "store")
    (tmp_path / "store" / "b").symlink_to("a")
    objects = LocalObjects(str(tmp_path / "store"), "train-1")
    objects.begin()
    objects.put("b/file", b"x")
    assert (tmp_path / "disk" / "store" / "a" / "file").read_bytes() == b"x"


@pytest.mark.parametrize("link", [".tmp", ".tmp/train-0"])
def test_sweeping_follows_no_link(tmp_path, victim, link):
    """A new run removes the files of earlier runs in `.tmp`, but not the targets of links."""
    store = tmp_path / "store"
    (store / link).parent.mkdir(parents=True)
    (store / link).symlink_to(victim)
    before = everything(victim)
    objects = LocalObjects(str(store), "train-1")
    if link == ".tmp":
        with pytest.raises(StoreError, match="by a symbolic link"):
            objects.begin()
    else:
        objects.begin()
        assert not (store / link).is_symlink()
    objects.end()
    assert everything(victim) == before


@pytest.mark.parametrize("link", [".tmp", ".tmp/train.lock"])
def test_a_link_in_place_of_the_lock_is_refused(tmp_path, victim, link):
    """The lock's file is truncated and written, which must not happen to another file."""
    store = tmp_path / "store"
    (store / link).parent.mkdir(parents=True)
    (store / link).symlink_to(victim / "keys" if link.endswith("lock") else victim)
    (victim / "train.lock").write_text("mine")
    before = everything(victim)
    objects = LocalObjects(str(store), "train-1")
    with pytest.raises(StoreError), lease.lease(objects, "train", wait=False):
        pass
    assert everything(victim) == before


@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_pipes_and_devices_are_refused_without_blocking(tmp_path, kind):
    """A read of a pipe or of `/dev/zero` would never end."""
    objects = LocalObjects(str(tmp_path), "train-1")
    if kind == "pipe":
        os.mkfifo(tmp_path / "recipe.json")
    else:
        (tmp_path / "recipe.json").symlink_to("/dev/zero")
    for read in (
        lambda: objects.get("recipe.json"),
        lambda: objects.open("recipe.json"),
        lambda: objects.read("recipe.json", 0, 10),
    ):
        with pytest.raises(StoreDamagedError, match="a device or a pipe"):
            read()
    assert objects.size("recipe.json") is None
    assert not objects.read_cached("recipe.json", 0, memoryview(bytearray(4)))


def test_a_document_beyond_its_limit_is_not_read(tmp_path):
    """A sparse file of a terabyte needs no room on a disk, so its length is checked first."""
    with (tmp_path / "recipe.json").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(StoreDamagedError, match="expected at most 1,000"):
        LocalObjects(str(tmp_path), "train-1").get("recipe.json", 1_000)


def test_removing_a_folder_does_not_follow_links(tmp_path, victim):
    """Links inside and a link in its place are removed; a link on its path is refused."""
    root = tmp_path / "store"
    (root / "spool").mkdir(parents=True)
    (root / "spool" / "link").symlink_to(victim)
    before = everything(victim)
    confined.remove_folder(root / "spool", root)
    assert not (root / "spool").exists()
    (root / "spool").symlink_to(victim)
    confined.remove_folder(root / "spool", root)
    assert not (root / "spool").is_symlink()
    (root / ".cache").symlink_to(victim)
    with pytest.raises(StoreError, match="by a symbolic link"):
        confined.remove_folder(root / ".cache" / "train-x", root)
    assert everything(victim) == before
