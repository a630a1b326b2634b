"""Objects are written completely or not at all, by one run, and errors are explained."""

import errno
import fcntl
import os
from pathlib import Path

import numpy as np
import pytest
import xxhash

from pipeline.errors import StoreError
from pipeline.store import local
from pipeline.store.fingerprint import fingerprint
from pipeline.store.local import LocalObjects
from pipeline.store.objects import Objects
from pipeline.store.open import open_objects
from tests import lacking


def begun(url: str, run: str = "train-1") -> Objects:
    objects = open_objects(url, run)
    objects.begin()
    return objects


@pytest.fixture(params=["disk", "memory"])
def objects(request: pytest.FixtureRequest, tmp_path: Path) -> Objects:
    return begun(str(tmp_path / "store") if request.param == "disk" else f"memory://{tmp_path}")


def test_an_object_is_read_back_under_its_name(objects: Objects) -> None:
    """An object can be read completely or as a file, and has its size."""
    objects.put("a/b/c.json", b"hello")
    assert objects.get("a/b/c.json") == b"hello"
    assert objects.size("a/b/c.json") == 5
    with objects.open("a/b/c.json") as file:
        file.seek(1)
        assert file.read(3) == b"ell"


def test_objects_are_listed_under_a_folder_at_any_depth(objects: Objects) -> None:
    """The complete names are sorted."""
    for name in ("a/2", "a/b/1", "c"):
        objects.put(name, b"x")
    assert objects.names("a") == ["a/2", "a/b/1"]
    assert objects.names("nothing") == []


def test_missing_objects_are_reported(objects: Objects) -> None:
    """Reading raises FileNotFoundError, the size is None, and removing is silent."""
    with pytest.raises(FileNotFoundError):
        objects.get("a")
    assert objects.size("a") is None
    objects.remove("a")


def test_a_folder_is_not_an_object_and_an_object_not_a_folder(objects: Objects) -> None:
    """The first part of a name has no size, and nothing lies under a whole name."""
    objects.put("a/b", b"x")
    assert objects.size("a") is None
    assert objects.names("a/b") == []


@pytest.mark.parametrize("url", ["~nobody-of-this-name/x", "nosuch://x", "zip://x::no-such-file"])
def test_a_url_that_cannot_be_opened_is_a_one_line_error(url: str) -> None:
    """The user, the protocol or the archive does not exist."""
    with pytest.raises(StoreError, match="cannot open"):
        open_objects(url)


@pytest.mark.parametrize("calls", [lacking.EXFAT, lacking.SMB], ids=["exFAT", "SMB"])
def test_one_of_two_planners_wins_on_a_disk_without_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calls: tuple[str, ...]
) -> None:
    """No temporary file of either planner remains."""
    lacking.remove(calls, monkeypatch.setattr)
    first, second = begun(str(tmp_path), "train-1"), begun(str(tmp_path), "val-1")
    assert first.put_new("plan", b"mine")
    assert not second.put_new("plan", b"yours")
    assert first.get("plan") == b"mine"
    assert [name for name in first.names(".tmp") if "held" not in name] == []


def test_a_new_object_never_replaces_an_existing_one(objects: Objects) -> None:
    """Two planners leave one plan."""
    assert objects.put_new("plan", b"mine")
    assert not objects.put_new("plan", b"yours")
    assert objects.get("plan") == b"mine"


def test_an_object_does_not_exist_before_it_is_finished(objects: Objects) -> None:
    """An aborted object does not exist either."""
    writer = objects.create("shard")
    writer.write(memoryview(b"half"))
    assert objects.size("shard") is None
    writer.abort()
    assert objects.size("shard") is None
    assert [name for name in objects.names("") if not name.startswith(".tmp")] == []


def test_a_buffer_may_be_reused_after_each_write(objects: Objects) -> None:
    """Composers of shards reuse one buffer."""
    buffer = bytearray(b"one")
    writer = objects.create("shard")
    writer.write(memoryview(buffer))
    buffer[:] = b"two"
    writer.write(memoryview(buffer))
    writer.finish()
    writer.abort()
    assert objects.get("shard") == b"onetwo"


def test_a_fingerprint_has_size_and_digest() -> None:
    """The digest is that of xxhsum."""
    written = fingerprint("a", b"hello")
    assert (written.num_bytes, written.digest) == (5, xxhash.xxh3_128(b"hello").hexdigest())


def test_a_later_run_excludes_an_earlier_one(tmp_path: Path) -> None:
    """An earlier run that is still computing cannot write, even if it has begun to."""
    early = begun(str(tmp_path), "train-1")
    sibling = begun(str(tmp_path), "train-a-1")
    begun_writer = early.create("begun")
    late = begun(str(tmp_path), "train-2")
    late.put("late", b"x")
    begun_writer.write(memoryview(b"x"))
    with pytest.raises(StoreError, match="cannot write"):
        begun_writer.finish()
    begun_writer.abort()
    with pytest.raises(StoreError, match="another run of the same split has started"):
        early.put("early", b"x")
    sibling.put("of another split", b"x")
    assert late.names("") == ["late", "of another split"]


def test_temporary_files_are_removed_after_a_run(tmp_path: Path) -> None:
    """The files are removed whether they were finished, aborted or forgotten."""
    objects = begun(str(tmp_path))
    objects.put("a", b"x")
    forgotten = objects.create("b")
    objects.end()
    assert list((tmp_path / ".tmp").iterdir()) == []
    forgotten.abort()


@pytest.mark.parametrize("length", [1, 4 << 20, (4 << 20) + 1, 9_000_001, 12 << 20])
def test_an_object_of_any_length_is_written_completely(tmp_path: Path, length: int) -> None:
    """The length may be one block, several blocks, or any other number of bytes."""
    objects = begun(str(tmp_path))
    data = np.random.default_rng(0).integers(0, 256, length, np.uint8)
    writer = objects.create("a")
    for start in range(0, length, 777_777):
        writer.write(memoryview(data[start : start + 777_777]))
    writer.finish()
    writer.abort()
    assert objects.get("a") == data.tobytes()


def test_without_direct_writes_the_page_cache_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some file systems do not support O_DIRECT."""
    monkeypatch.setattr(local.os, "O_DIRECT", -1, raising=False)
    objects = begun(str(tmp_path))
    writer = objects.create("a")
    writer.write(memoryview(bytes(9_000_001)))
    writer.finish()
    writer.abort()
    assert objects.get("a") == bytes(9_000_001)


def test_the_page_cache_is_used_if_direct_writes_fail_late(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some file systems accept the flag but refuse the writes."""
    objects = begun(str(tmp_path))
    write = os.write

    def refuse_direct(file: int, data: memoryview) -> int:
        if fcntl.fcntl(file, fcntl.F_GETFL) & os.O_DIRECT:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return write(file, data)

    monkeypatch.setattr(local, "_set_o_direct", _set_direct_flag)
    monkeypatch.setattr(local.os, "write", refuse_direct)
    writer = objects.create("a")
    writer.write(memoryview(bytes(9_000_001)))
    writer.finish()
    writer.abort()
    assert objects.get("a") == bytes(9_000_001)


def _set_direct_flag(file: int, *, on: bool) -> bool:
    flags = fcntl.fcntl(file, fcntl.F_GETFL)
    fcntl.fcntl(file, fcntl.F_SETFL, flags | os.O_DIRECT if on else flags & ~os.O_DIRECT)
    return True


def test_a_full_disk_is_reported_by_the_composing_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error of the writing thread is raised by the next write."""
    objects = begun(str(tmp_path))

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(local.os, "write", fail)
    writer = objects.create("a")

    def write_all() -> None:
        for _ in range(4):
            writer.write(memoryview(bytes(4 << 20)))

    with pytest.raises(StoreError, match="No space left on device"):
        write_all()
    writer.abort()


def test_a_short_write_is_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system may accept fewer bytes than requested."""
    objects = begun(str(tmp_path))
    write = os.write
    monkeypatch.setattr(local.os, "write", lambda file, data: write(file, bytes(data[:3])))
    objects.put("a", b"0123456789")
    assert objects.get("a") == b"0123456789"


@pytest.mark.parametrize("call", ["write", "fsync", "replace"])
def test_a_failing_disk_is_a_one_line_error_and_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """An existing object is unchanged."""
    objects = begun(str(tmp_path))
    objects.put("a", b"old")

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(local.os, call, fail)
        with pytest.raises(StoreError, match=r"cannot write .*/a: No space left on device\. Free"):
            objects.put("a", b"new")
    assert objects.get("a") == b"old"
    objects.end()
    assert objects.names("") == ["a"]


def test_room_is_the_free_space_of_the_disk(tmp_path: Path) -> None:
    """The free space is known before the store exists."""
    room = LocalObjects(str(tmp_path / "not" / "yet"), "train-1").free_bytes()
    assert room is not None
    assert room > 0
