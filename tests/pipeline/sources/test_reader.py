"""The reader returns exactly the listed bytes, or raises a ReadError that names the file."""

import errno
import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import pytest

from pipeline.errors import ReadError
from pipeline.sources.reader import SourceReader


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.fixture(params=["local", "memory"])
def root(tmp_path, request):
    if request.param == "local":
        (tmp_path / "a").mkdir()
        (tmp_path / "a" / "b.jpg").write_bytes(b"0123456789")
        (tmp_path / "a" / "empty.jpg").write_bytes(b"")
        return str(tmp_path)
    filesystem = fsspec.filesystem("memory")
    filesystem.pipe_file(f"{tmp_path}/a/b.jpg", b"0123456789")
    filesystem.pipe_file(f"{tmp_path}/a/empty.jpg", b"")
    return f"memory://{tmp_path}"


def test_a_whole_file_and_any_range_of_it_are_read(root):
    """The offset None stands for the whole file, and zero bytes can be read."""
    reader = SourceReader(root)
    assert reader.read("a/b.jpg", None, 10) == b"0123456789"
    assert reader.read("a/b.jpg", 3, 4) == b"3456"
    assert reader.read("a/b.jpg", 0, 10) == b"0123456789"
    assert reader.read("a/b.jpg", 10, 0) == b""
    assert reader.read("a/empty.jpg", None, 0) == b""
    reader.close()


def test_a_file_of_another_size_than_listed_is_refused(root):
    """A file that is shorter or longer by a byte is refused."""
    for listed in (9, 11):
        with pytest.raises(
            ReadError, match=rf"a/b\.jpg has 10 bytes, was listed with {listed}: the"
        ):
            SourceReader(root).read("a/b.jpg", None, listed)


def test_a_range_beyond_the_end_is_refused(root):
    """A range beyond the end of a shortened archive is refused."""
    reader = SourceReader(root)
    with pytest.raises(ReadError, match=r"a/b\.jpg.*the source changed"):
        reader.read("a/b.jpg", 5, 6)
    with pytest.raises(ReadError, match=r"a/b\.jpg"):
        reader.read("a/b.jpg", 50, 6)


def test_a_missing_file_is_named_with_its_root(root):
    """The message has the full path, and the error its cause."""
    for offset in (None, 0):
        with pytest.raises(ReadError) as caught:
            SourceReader(root).read("a/gone.jpg", offset, 1)
        assert f"{root}/a/gone.jpg" in str(caught.value)
        assert isinstance(caught.value.__cause__, OSError)


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ETIMEDOUT])
def test_errors_of_the_system_become_read_errors(tmp_path, monkeypatch, number):
    """The next read opens the file anew, so that a stale handle is not used again."""
    (tmp_path / "b.jpg").write_bytes(b"0123456789")
    reader = SourceReader(str(tmp_path))
    assert reader.read("b.jpg", 0, 3) == b"012"

    def fail(*_: object) -> bytes:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patched:
        patched.setattr(os, "pread", fail)
        patched.setattr(os, "read", fail)
        for offset in (None, 0):
            with pytest.raises(ReadError, match=os.strerror(number)):
                reader.read("b.jpg", offset, 10)
    assert not reader._open
    assert reader.read("b.jpg", 0, 3) == b"012"
    reader.close()


def test_short_reads_are_continued(tmp_path, monkeypatch):
    """A system call that returns fewer bytes is repeated."""
    (tmp_path / "b.jpg").write_bytes(b"0123456789")
    read, pread = os.read, os.pread
    monkeypatch.setattr(os, "read", lambda fd, n: read(fd, min(n, 3)))
    monkeypatch.setattr(os, "pread", lambda fd, n, at: pread(fd, min(n, 3), at))
    reader = SourceReader(str(tmp_path))
    assert reader.read("b.jpg", None, 10) == b"0123456789"
    assert reader.read("b.jpg", 1, 8) == b"12345678"
    reader.close()


def test_errors_of_remote_clients_become_read_errors(monkeypatch, tmp_path):
    """Errors of any class that a client raises become a ReadError."""

    class ClientError(Exception):
        pass

    filesystem = fsspec.filesystem("memory")
    filesystem.pipe_file(f"{tmp_path}/b.jpg", b"0123456789")

    def fail(*_: object, **__: object) -> bytes:
        raise ClientError("slow down")

    monkeypatch.setattr(type(filesystem), "cat_file", fail)
    with pytest.raises(ReadError, match=r"cannot read memory://.*b\.jpg: ClientError: slow down"):
        SourceReader(f"memory://{tmp_path}").read("b.jpg", None, 10)


def test_the_number_of_open_files_is_limited(tmp_path):
    """No file is open after closing, and a closed reader can be used again."""
    for i in range(20):
        (tmp_path / f"{i}.tar").write_bytes(bytes([i]) * 10)
    before = open_files()
    reader = SourceReader(str(tmp_path), max_open_files=4)
    for i in range(20):
        assert reader.read(f"{i}.tar", 2, 3) == bytes([i]) * 3
        assert open_files() - before <= 4
    reader.close()
    assert open_files() == before
    assert reader.read("3.tar", 0, 1) == b"\3"
    reader.close()


def test_the_most_recently_used_file_stays_open(tmp_path):
    """The least recently used file is closed, so that hot archives stay open."""
    for name in "abc":
        (tmp_path / name).write_bytes(b"1")
    reader = SourceReader(str(tmp_path), max_open_files=2)
    for name in "abac":
        reader.read(name, 0, 1)
    assert list(reader._open) == ["a", "c"]
    reader.close()


def test_threads_share_a_reader(tmp_path):
    """Eviction never closes a file that another thread is reading."""
    for i in range(10):
        (tmp_path / f"{i}.tar").write_bytes(bytes([i]) * 5000)
    reader = SourceReader(str(tmp_path), max_open_files=2)
    before = open_files()

    def read(job: int) -> bool:
        i = job % 10
        return reader.read(f"{i}.tar", job % 7, 4000) == bytes([i]) * 4000

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(read, range(3000)))
    reader.close()
    assert open_files() <= before


def test_a_reader_pickles_as_its_root(tmp_path):
    """Open files are not pickled."""
    (tmp_path / "b.jpg").write_bytes(b"0123456789")
    reader = SourceReader(str(tmp_path), max_open_files=3)
    reader.read("b.jpg", 0, 1)
    copy = pickle.loads(pickle.dumps(reader))
    assert (copy.root, copy.max_open_files) == (str(tmp_path), 3)
    assert copy.read("b.jpg", None, 10) == b"0123456789"
    assert len(pickle.dumps(reader)) < 300
    reader.close()
