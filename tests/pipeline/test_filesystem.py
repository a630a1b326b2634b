"""Exclusive names and durable folders, on file systems that lack the usual calls."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from pipeline import filesystem
from pipeline.filesystem import (
    advice_for,
    name_exclusively,
    naming_method,
    replacing,
    sync_folder,
    write_file,
)
from tests import lacking
from tests.pipeline.simultaneous import several, together

NAMINGS = {
    "link": (),
    "renameat2": ("link",),
    "a rename under a lock": ("link", "renameat2"),
}


# --- exclusive names ------------------------------------------------------------------------------

NAME = """
import os
from pathlib import Path
from tests.pipeline.simultaneous import several, together
from tests import lacking
from pipeline.filesystem import name_exclusively
me, folder = sys.argv[1], Path(sys.argv[2])
lacking.remove(sys.argv[3].split(), setattr)
for place in range(20):
    (folder / f"{me}-{place}").write_text(me)
print("ready", flush=True)
sys.stdin.readline()
for p in range(20):
    if name_exclusively(folder / f"{me}-{p}", folder / f"final-{p}", folder):
        print(p)
"""


@pytest.mark.parametrize("method", NAMINGS)
def test_one_of_many_processes_gets_a_name_exclusively(tmp_path: Path, method: str) -> None:
    """Each name is given once, the file is the winner's, and nothing else remains."""
    with several(NAME, 3, tmp_path, " ".join(NAMINGS[method])) as started:
        outputs = together(started)
    winners = {int(number): str(me) for me, lines in enumerate(outputs) for number in lines.split()}
    assert len(winners) == sum(len(lines.split()) for lines in outputs) == 20
    for number, me in winners.items():
        assert (tmp_path / f"final-{number}").read_text() == me
    left = [path.name for path in tmp_path.iterdir() if "create.held" not in path.name]
    assert sorted(left) == sorted(f"final-{number}" for number in range(20))


@pytest.mark.parametrize("method", NAMINGS)
def test_naming_way_names_the_creation_method(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """The trial leaves no file."""
    lacking.remove(NAMINGS[method], monkeypatch.setattr)
    assert naming_method(tmp_path) == method
    assert list(tmp_path.iterdir()) == []


def test_a_repeated_nfs_link_request_counts_as_success(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NFS repeats a lost request and then finds the name taken by the same file."""
    link = os.link

    def link_twice(old: Path, new: Path) -> None:
        link(old, new)
        link(old, new)

    monkeypatch.setattr(os, "link", link_twice)
    (tmp_path / "a").write_text("mine")
    assert name_exclusively(tmp_path / "a", tmp_path / "b", tmp_path)
    (tmp_path / "a").write_text("another's")
    assert not name_exclusively(tmp_path / "a", tmp_path / "b", tmp_path)
    assert (tmp_path / "b").read_text() == "mine"


def test_a_failed_exclusive_name_raises_the_systems_error(tmp_path: Path) -> None:
    """The error is not mistaken for a name that is taken."""
    (tmp_path / "a").write_text("mine")
    with pytest.raises(FileNotFoundError):
        name_exclusively(tmp_path / "a", tmp_path / "nowhere" / "b", tmp_path)


# --- durable folders, and what to do about errors -------------------------------------------------


def test_the_file_system_is_synced_if_a_folder_cannot_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The names in the folder are then durable as well."""
    synced: list[str] = []
    sync_all = filesystem._sync_file_system

    def sync(descriptor: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))  # noqa: PTH115 - no path
        sync_all(descriptor)

    monkeypatch.setattr(filesystem, "_sync_file_system", sync)
    sync_folder(tmp_path)
    assert synced == []
    lacking.remove(("folder sync",), monkeypatch.setattr)
    sync_folder(tmp_path)
    assert synced == [str(tmp_path)]


def test_an_io_error_of_fsync_is_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that fails is not mistaken for one that cannot sync folders."""
    monkeypatch.setattr(os, "fsync", lacking._fail(errno.EIO))
    with pytest.raises(OSError, match="Input/output error"):
        sync_folder(tmp_path)


def test_a_small_file_is_written_completely(tmp_path: Path) -> None:
    """A link with the name of the file is replaced and not followed, and nothing else remains."""
    (tmp_path / "keys").write_text("mine")
    (tmp_path / "options.json").symlink_to(tmp_path / "keys")
    write_file(tmp_path / "options.json", [b"{", memoryview(b"}")], durable=True)
    assert not (tmp_path / "options.json").is_symlink()
    assert (tmp_path / "options.json").read_bytes() == b"{}"
    assert (tmp_path / "keys").read_text() == "mine"
    (tmp_path / "plain").touch()
    assert (tmp_path / "options.json").stat().st_mode == (tmp_path / "plain").stat().st_mode
    assert sorted(path.name for path in tmp_path.iterdir()) == ["keys", "options.json", "plain"]


@pytest.mark.parametrize("durable", [True, False])
def test_a_reader_sees_the_old_file_or_the_new_one(tmp_path: Path, durable: bool) -> None:
    """The file has its old content until the block ends, also if it ends with an error."""
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def write_half() -> None:
        with replacing(path, durable=durable) as file:
            file.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert path.read_bytes() == b"old"
    with replacing(path, durable=durable) as file:
        file.write(b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("leads", [True, False])
def test_an_existing_temporary_file_is_replaced(tmp_path: Path, leads: bool) -> None:
    """A planted link is not followed, and the file of a killed writer is overwritten."""
    (tmp_path / "keys").write_text("mine")
    temporary = tmp_path / "file.new"
    if leads:
        temporary.symlink_to(tmp_path / "keys")
    else:
        temporary.write_text("half of a longer file")
    with replacing(tmp_path / "file", durable=False, temporary=temporary) as file:
        assert temporary.is_file()
        file.write(b"new")
    assert (tmp_path / "file").read_bytes() == b"new"
    assert (tmp_path / "keys").read_text() == "mine"
    assert not temporary.exists()


@pytest.mark.parametrize("durable", [True, False])
def test_a_durable_file_is_synced_before_its_rename_and_its_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, durable: bool
) -> None:
    """Only a file that must survive a power failure is synced."""
    done: list[tuple[str, int]] = []
    fsync, replace = os.fsync, Path.replace

    def note_sync(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        done.append(("folder" if path == tmp_path else "file", path.stat().st_size))
        fsync(descriptor)

    def note_rename(self: Path, target: Path) -> Path:
        done.append(("name", self.stat().st_size))
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(Path, "replace", note_rename)
    write_file(tmp_path / "file", [b"new"], durable=durable)
    synced = [("file", 3), ("name", 3), ("folder", tmp_path.stat().st_size)]
    assert done == (synced if durable else [("name", 3)])


def test_a_small_file_that_cannot_be_renamed_leaves_no_file(tmp_path: Path) -> None:
    """A folder has the name of the file."""
    (tmp_path / "options.json").mkdir()
    with pytest.raises(IsADirectoryError):
        write_file(tmp_path / "options.json", [b"{}"], durable=False)
    assert [path.name for path in tmp_path.iterdir()] == ["options.json"]


@pytest.mark.parametrize(
    ("number", "says"),
    [
        (errno.ENOSPC, "Free some space"),
        (errno.EDQUOT, "Your quota is used up"),
        (errno.EROFS, "mounted read-only"),
        (errno.EACCES, "that you may write to"),
        (errno.ENAMETOOLONG, "a shorter path"),
        (errno.ESTALE, "mount it again"),
        (errno.ENOLCK, "tesserae doctor"),
        (errno.EIO, "Repair or replace the disk"),
        (errno.EBUSY, "Free some space or repair the disk"),
    ],
)
def test_the_advice_depends_on_the_errno(number: int, says: str) -> None:
    """For example, freeing space is suggested only if space is missing."""
    text = advice_for(OSError(number, os.strerror(number)))
    assert says in text
    assert not text.endswith(".")
