"""A pushed folder is pulled byte for byte, whatever breaks off; what is not whole is refused."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import TesseraeError
from pipeline.store.layout import TEMPORARY
from pipeline.store.lease import lease
from pipeline.store.open import open_objects
from tests.commands import run, start, wait_until
from tests.images import make_folder, prepare_inline
from workflows import cli
from workflows.transfer import remote_folder
from workflows.transfer.manifest import (
    MANIFEST,
    FileFacts,
    decode_manifest,
    encode_manifest,
    files_of,
)
from workflows.transfer.push import MARK
from workflows.transfer.remote_folder import RemoteFolder

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def tesserae(capsys: pytest.CaptureFixture[str]) -> Call:
    """Return a function that runs a command here; it returns status, output and errors."""

    def call(*words: object) -> tuple[int, str, str]:
        capsys.readouterr()
        status = cli.main([*map(str, words)])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with files in folders, an empty one, and temporary files."""
    root = tmp_path / "folder"
    for number in range(12):
        file = root / f"part {number % 3}" / f"file-{number}"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(bytes([number]) * (number * 1000))
    (root / TEMPORARY).mkdir()
    (root / TEMPORARY / "lock").write_text("x")
    (root / "part 1" / TEMPORARY).mkdir()  # as in the folder of vectors of a run
    (root / "part 1" / TEMPORARY / "lock").write_text("x")
    (root / ".cache").mkdir()
    (root / ".cache" / "rows").write_text("x")
    (root / ".half.0123456789ab.new").write_text("x")
    return root


def contents(root: Path) -> dict[str, bytes]:
    return {name: (root / name).read_bytes() for name in files_of(root)}


numbers = itertools.count()


@pytest.fixture(params=["file", "memory", "s3"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the URL of a new folder on a disk, in memory, and on an S3 server."""
    if request.param == "s3":
        request.getfixturevalue("s3_environment")
        files = fsspec.filesystem("s3", use_listings_cache=False, skip_instance_cache=True)
        if not files.exists("pushed"):
            files.mkdir("pushed")
        return f"s3://pushed/{next(numbers)}"
    if request.param == "memory":
        return f"memory://pushed/{next(numbers)}"
    return str(tmp_path / "there")


def test_a_pulled_folder_is_that_which_was_pushed(
    folder: Path, url: str, tmp_path: Path, tesserae: Call
) -> None:
    """A second push and a second pull copy nothing; a change copies what changed."""
    status, said, errors = tesserae("push", folder, url)
    assert (status, errors) == (0, "")
    assert "push: 12 files in " in said
    assert said.endswith(f"{url}: 12 files, 66.0 kB; 12 of them were copied now.\n")
    status, said, _ = tesserae("pull", url, tmp_path / "copy")
    assert (status, contents(tmp_path / "copy")) == (0, contents(folder))
    assert "12 of them were copied now" in said
    assert "; 0 of them" in tesserae("push", folder, url)[1]
    assert "; 0 of them" in tesserae("pull", url, tmp_path / "copy")[1]

    (folder / "part 1" / "file-1").write_bytes(b"changed")
    (folder / "new").write_bytes(b"new")
    (tmp_path / "copy" / "part 2" / "file-2").write_bytes(b"\2" * 1999 + b"x")
    assert "; 2 of them" in tesserae("push", folder, url)[1]
    assert "; 3 of them" in tesserae("pull", url, tmp_path / "copy")[1]
    assert contents(tmp_path / "copy") == contents(folder)
    assert not list((tmp_path / "copy").rglob("*.new"))


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, int, BaseException], None]]:
    """Return a function that makes a method of the remote folder fail from its n-th call on."""

    def fail(method: str, after: int, error: BaseException) -> None:
        original = getattr(RemoteFolder, method)
        lock, calls = threading.Lock(), itertools.count()

        def call(self: RemoteFolder, *words: Any) -> Any:
            with lock:
                number = next(calls)
            if number >= after:
                raise error
            return original(self, *words)

        monkeypatch.setattr(RemoteFolder, method, call)

    yield fail
    monkeypatch.undo()


@pytest.mark.parametrize("error", [TesseraeError("the line is cut."), KeyboardInterrupt()])
def test_a_push_continues_where_it_was_broken_off(
    folder: Path, url: str, tmp_path: Path, tesserae: Call, error: BaseException,
    failing: Callable[[str, int, BaseException], None], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """What is not complete cannot be pulled."""
    failing("upload", 5, error)
    status, _, errors = tesserae("push", folder, url, "--threads", 1)
    monkeypatch.undo()
    assert status == (1 if isinstance(error, TesseraeError) else 130)
    assert "the line is cut" in errors or "Run the same command again to continue." in errors
    status, _, errors = tesserae("pull", url, tmp_path / "copy")
    assert status == 1
    assert "has no tesserae-manifest.json: nothing was pushed there, or the push is" in errors
    assert not (tmp_path / "copy").exists()

    assert "; 7 of them" in tesserae("push", folder, url)[1]

    assert tesserae("pull", url, tmp_path / "copy")[0] == 0
    assert contents(tmp_path / "copy") == contents(folder)


def test_a_pull_continues_where_it_was_broken_off(
    folder: Path, url: str, tmp_path: Path, tesserae: Call,
    failing: Callable[[str, int, BaseException], None], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """The folder has no manifest until all files are there."""
    assert tesserae("push", folder, url)[0] == 0
    failing("download", 4, KeyboardInterrupt())
    assert tesserae("pull", url, tmp_path / "copy", "--threads", 1)[0] == 130
    monkeypatch.undo()
    assert len(contents(tmp_path / "copy")) == 4
    killed = tmp_path / "copy" / "part 0" / ".file-0.0123456789ab.new"
    killed.write_bytes(b"part")
    assert not (tmp_path / "copy" / MANIFEST).exists()

    assert "; 8 of them" in tesserae("pull", url, tmp_path / "copy")[1]

    assert contents(tmp_path / "copy") == contents(folder)
    assert not killed.exists()


def test_one_pull_at_a_time_writes_a_folder(folder: Path, tmp_path: Path, tesserae: Call) -> None:
    """Each removes what a killed one had begun."""
    assert tesserae("push", folder, tmp_path / "there")[0] == 0
    copy = tmp_path / "copy"
    copy.mkdir()
    with lease(open_objects(str(copy)), "pull", wait=False):
        status, _, errors = tesserae("pull", tmp_path / "there", copy)
    assert (status, "is being written by process" in errors) == (1, True)
    assert tesserae("pull", tmp_path / "there", copy)[0] == 0


@pytest.mark.parametrize("change", ["flipped", "cut", "missing"])
def test_a_damaged_file_is_never_named(
    folder: Path, url: str, tmp_path: Path, tesserae: Call, change: str
) -> None:
    """The message names it; pushing again repairs what has another length."""
    assert tesserae("push", folder, url)[0] == 0
    files, root = fsspec.core.url_to_fs(url, use_listings_cache=False, skip_instance_cache=True)
    path = f"{root}/part 1/file-4"
    data = bytearray(files.cat_file(path))
    if change == "missing":
        files.rm_file(path)
    else:
        data[10] ^= 1
        files.pipe_file(path, bytes(data[: -1 if change == "cut" else None]))

    status, _, errors = tesserae("pull", url, tmp_path / "copy")

    assert status == 1
    assert "part 1/file-4" in errors
    assert not (tmp_path / "copy" / "part 1" / "file-4").exists()
    assert not (tmp_path / "copy" / MANIFEST).exists()
    assert not list((tmp_path / "copy").rglob("*.new"))
    if change != "flipped":
        assert "; 1 of them" in tesserae("push", folder, url)[1]
        assert tesserae("pull", url, tmp_path / "copy")[0] == 0


def test_pushes_of_two_folders_to_one_place_do_not_mix(tmp_path: Path, tesserae: Call) -> None:
    """What a folder has copied there before counts only until another one copies something."""
    url = tmp_path / "there"
    for name, text in (("a", "one\n"), ("b", "two\n")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "f").write_text(text)
    for name in ("a", "b", "a", "b", "a"):
        assert "; 1 of them" in tesserae("push", tmp_path / name, url)[1]
        assert tesserae("pull", url, tmp_path / "copy")[0] == 0
        assert contents(tmp_path / "copy") == contents(tmp_path / name)


def test_a_push_that_broke_off_does_not_leave_the_manifest_of_another(
    folder: Path, tmp_path: Path, tesserae: Call,
    failing: Callable[[str, int, BaseException], None], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """A machine without a record copies everything then, and the result can be pulled."""
    url = tmp_path / "there"
    assert tesserae("push", folder, url)[0] == 0
    changed = Path(shutil.copytree(folder, tmp_path / "changed"))
    (changed / "part 0" / "file-3").write_bytes(b"\5" * 3000)
    failing("upload", 1, KeyboardInterrupt())
    (changed / "part 1" / "file-4").write_bytes(b"\6" * 4000)
    assert tesserae("push", changed, url, "--threads", 1)[0] == 130
    monkeypatch.undo()
    assert tesserae("pull", url, tmp_path / "copy")[0] == 1
    shutil.rmtree(folder / TEMPORARY)

    assert "; 12 of them" in tesserae("push", folder, url)[1]

    assert tesserae("pull", url, tmp_path / "copy")[0] == 0
    assert contents(tmp_path / "copy") == contents(folder)


def test_again_repairs_what_is_damaged_with_the_same_length(
    folder: Path, tmp_path: Path, tesserae: Call
) -> None:
    """As the message of the pull says."""
    url = tmp_path / "there"
    assert tesserae("push", folder, url)[0] == 0
    (url / "part 0" / "file-6").write_bytes(b"\7" * 6000)
    status, _, errors = tesserae("pull", url, tmp_path / "copy")
    assert status == 1
    assert "Push the folder once more, with --again." in errors

    assert "; 12 of them" in tesserae("push", folder, url, "--again")[1]

    assert tesserae("pull", url, tmp_path / "copy")[0] == 0


@pytest.mark.parametrize("name", ["part 0/file-9", "part 2/file-2"])
def test_a_file_that_changes_during_a_push_is_an_error(
    folder: Path, tmp_path: Path, tesserae: Call, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Before it is copied, or after; the copy is not complete then."""
    url = tmp_path / "there"
    upload, calls = RemoteFolder.upload, itertools.count()

    def change(self: RemoteFolder, files: Any) -> None:
        if next(calls) == 6:
            (folder / name).write_bytes((folder / name).read_bytes()[::-1])
        upload(self, files)

    with monkeypatch.context() as patch:
        patch.setattr(RemoteFolder, "upload", change)
        status, _, errors = tesserae("push", folder, url, "--threads", 1)
    assert status == 1
    assert f"{name} has changed during the push" in errors
    assert tesserae("pull", url, tmp_path / "copy")[0] == 1
    assert tesserae("push", folder, url)[0] == 0
    assert tesserae("pull", url, tmp_path / "copy")[0] == 0
    assert contents(tmp_path / "copy") == contents(folder)


def test_a_changed_file_of_the_same_length_and_time_is_copied(
    folder: Path, tmp_path: Path, tesserae: Call
) -> None:
    """As programs that keep times write it."""
    url, file = tmp_path / "there", folder / "part 1" / "file-1"
    assert tesserae("push", folder, url)[0] == 0
    before = file.stat()
    file.write_bytes(rb"\9" * 1000)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert "; 1 of them" in tesserae("push", folder, url)[1]
    assert (url / "part 1" / "file-1").read_bytes() == rb"\9" * 1000


def test_a_second_push_at_once_is_found(
    folder: Path, tmp_path: Path, tesserae: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first one does not call complete what both have written."""
    url = tmp_path / "there"
    upload = RemoteFolder.upload

    def interfere(self: RemoteFolder, files: Any) -> None:
        upload(self, files)
        self.write(MARK, b'{"identity": "another"}')

    monkeypatch.setattr(RemoteFolder, "upload", interfere)
    status, _, errors = tesserae("push", folder, url)
    assert status == 1
    assert "another push to" in errors
    assert not (url / MANIFEST).exists()


def test_a_pull_names_what_an_earlier_one_has_left(
    folder: Path, tmp_path: Path, tesserae: Call
) -> None:
    """Such as the files of an export with another number of shards."""
    url = tmp_path / "there"
    assert tesserae("push", folder, url)[0] == 0
    assert tesserae("pull", url, tmp_path / "copy")[0] == 0
    (folder / "part 2" / "file-8").unlink()
    assert "; 0 of them" in tesserae("push", folder, url)[1]
    said = tesserae("pull", url, tmp_path / "copy")[1]
    assert "still has 1 file of an earlier pull" in said
    assert "such as part 2/file-8. Remove" in said


def test_a_manifest_that_cannot_be_read_is_replaced(
    folder: Path, tmp_path: Path, tesserae: Call
) -> None:
    """Nothing can be pulled with it, so that a push must be able to mend it."""
    url = tmp_path / "there"
    assert tesserae("push", folder, url)[0] == 0
    (url / MANIFEST).write_text("[")
    assert "; 12 of them" in tesserae("push", folder, url)[1]
    assert tesserae("pull", url, tmp_path / "copy")[0] == 0


def test_names_that_could_not_be_pulled_are_not_pushed(
    folder: Path, tmp_path: Path, tesserae: Call
) -> None:
    """Nor is a folder into itself."""
    (folder / "a\nb").write_text("x")
    status, _, errors = tesserae("push", folder, tmp_path / "there")
    assert status == 1
    assert "cannot be pushed" in errors
    assert not (tmp_path / "there").exists()
    status, _, errors = tesserae("push", folder, folder / "copy")
    assert status == 1
    assert "a folder cannot be copied into itself" in errors


def test_what_is_in_the_way_of_a_pull_is_named(
    folder: Path, tmp_path: Path, tesserae: Call
) -> None:
    """A folder in place of a file, a file in place of a folder."""
    url, copy = tmp_path / "there", tmp_path / "copy"
    assert tesserae("push", folder, url)[0] == 0
    (copy / "part 0" / "file-0").mkdir(parents=True)
    assert "file-0 is a folder, where a file is to be" in tesserae("pull", url, copy)[2]
    shutil.rmtree(copy / "part 0")
    (copy / "part 0").write_text("x")
    assert "part 0 is no folder" in tesserae("pull", url, copy)[2]
    assert "is no folder" in tesserae("pull", url, copy / "part 0")[2]


def test_a_folder_of_that_name_further_down_is_no_cache(tmp_path: Path) -> None:
    """It may be a class of an export; what is being written is left out everywhere."""
    for name in (".cache/a", ".tmp/b", "part/.cache/c", "part/.tmp/d", "part/e"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    assert sorted(files_of(tmp_path)) == ["part/.cache/c", "part/e"]


def test_files_of_another_folder_are_not_replaced(
    folder: Path, tmp_path: Path, tesserae: Call
) -> None:
    """A mistyped name of a folder must not cost a store its records."""
    url, other, store = tmp_path / "there", tmp_path / "other", tmp_path / "store"
    assert tesserae("push", folder, url)[0] == 0
    (folder / "part 1" / "file-1").write_text("new")
    assert tesserae("push", folder, other)[0] == 0
    (store / "part 1").mkdir(parents=True)
    (store / "part 1" / "file-1").write_text("mine")
    before = contents(store)
    status, _, errors = tesserae("pull", url, store)
    assert (status, errors.count("\n")) == (1, 1)
    assert "was not pulled from there, and has another part 1/file-1. Pull into" in errors
    assert contents(store) == before

    copy = tmp_path / "copy"
    assert tesserae("pull", url, copy)[0] == 0
    assert tesserae("pull", other, copy)[0] == 1
    (copy / ".tmp" / "pulled-from.json").unlink()  # as earlier versions left it
    assert tesserae("pull", other, copy)[0] == 0
    assert contents(copy) == contents(folder)


def test_failures_that_pass_are_tried_again(
    folder: Path, tmp_path: Path, tesserae: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server may be busy; what stays wrong is an error that names the file."""
    monkeypatch.setattr(remote_folder, "PAUSE_SECONDS", 0.0)
    url = f"memory://busy/{next(numbers)}"
    files = type(fsspec.filesystem("memory"))
    put, calls = files.put_file, itertools.count()

    def busy(self: Any, *words: Any, **more: Any) -> Any:
        if next(calls) % 3:
            raise ConnectionError("503 slow down")
        return put(self, *words, **more)

    monkeypatch.setattr(files, "put_file", busy)
    assert tesserae("push", folder, url, "--threads", 1)[0] == 0
    monkeypatch.setattr(files, "put_file", lambda *_, **__: busy(1 / 0))
    (folder / "more").write_text("x")
    status, _, errors = tesserae("push", folder, url)
    assert status == 1
    assert f"cannot write more to {url}: ZeroDivisionError" in errors


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("push", "nowhere", "memory://a"), "nowhere is no folder."),
        (("push", "empty", "memory://a"), "has no files."),
        (("push", "linked", "memory://a"), "is a link: only files of the folder itself"),
        (("push", "folder", "nosuch://a/b"), "cannot open nosuch://a/b: Protocol not known"),
        (("pull", "memory://nothing/here", "copy"), "nothing was pushed there"),
    ],
)
def test_wrong_words_are_refused(
    folder: Path, tmp_path: Path, tesserae: Call, monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...], message: str,
) -> None:  # fmt: skip
    """With a sentence, and without a file."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    shutil.copytree(folder, tmp_path / "linked")
    (tmp_path / "linked" / "link").symlink_to("/etc/passwd")

    status, _, errors = tesserae(*words)

    assert status == 1
    assert message in errors
    assert not (tmp_path / "copy").exists()


NAMES = st.text(st.sampled_from("abc/. -"), min_size=1, max_size=12)


@settings(max_examples=min(100, settings().max_examples))
@given(name=NAMES)
def test_a_manifest_names_no_file_outside(name: str) -> None:
    """It may come from somebody else."""
    data = encode_manifest({name: FileFacts(3, "0" * 64)})
    parts = name.split("/")
    if any(part in ("", ".", "..") for part in parts):
        with pytest.raises(TesseraeError, match="is no manifest"):
            decode_manifest(data, "x")
    else:
        assert decode_manifest(data, "x") == {name: FileFacts(3, "0" * 64)}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b'{"format": 2, "files": {}}',
        b'{"format": 1, "files": {"a": {"bytes": -1, "sha256": "' + b"0" * 64 + b'"}}}',
        b'{"format": 1, "files": {"a": {"bytes": 1, "sha256": "0"}}}',
        b'{"format": 1, "files": {"a": 1}}',
        b"[" * 100_000,
    ],
)
def test_another_document_is_no_manifest(data: bytes) -> None:
    """Whatever it holds."""
    with pytest.raises(TesseraeError, match=r"^x is no manifest: .* Push the folder again\.$"):
        decode_manifest(data, "x")


def test_a_link_in_the_folder_is_not_written_through(
    folder: Path, tmp_path: Path, tesserae: Call
) -> None:
    """A pull replaces a link by the file, and refuses a folder that leads out."""
    url = f"memory://linked/{next(numbers)}"
    assert tesserae("push", folder, url)[0] == 0
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("mine")
    copy = tmp_path / "copy"
    assert tesserae("pull", url, copy)[0] == 0
    (copy / "part 1" / "file-1").unlink()
    (copy / "part 1" / "file-1").symlink_to(outside / "file")
    assert tesserae("pull", url, copy)[0] == 0
    assert (outside / "file").read_text() == "mine"
    shutil.rmtree(copy / "part 2")
    (copy / "part 2").symlink_to(outside)
    assert tesserae("pull", url, copy)[0] == 1
    assert [path.name for path in outside.iterdir()] == ["file"]


@pytest.mark.slow
def test_a_store_is_pulled_from_a_server_after_kills(
    tmp_path: Path, s3_environment: dict[str, str]
) -> None:
    """Both commands are killed on their way; the store that arrives is verified."""
    prepare_inline(
        make_folder(tmp_path / "train", 300), str(tmp_path / "store"), sizes=(8, 16), shard_rows=8,
        chunk_rows=4,
    )  # fmt: skip
    files = fsspec.filesystem("s3", use_listings_cache=False, skip_instance_cache=True)
    files.mkdir("killed")
    url = "s3://killed/store"
    push = ("push", tmp_path / "store", url, "--threads", 1)
    pull = ("pull", url, tmp_path / "copy", "--threads", 1)
    with start(*push, scratch=tmp_path) as command:
        assert wait_until(lambda: files.exists("killed/store/commits"))
        command.process.kill()
    assert not files.exists(f"killed/store/{MANIFEST}")
    assert run(*push, scratch=tmp_path, seconds=200).status == 0
    with start(*pull, scratch=tmp_path) as command:
        assert wait_until(lambda: len(list((tmp_path / "copy").rglob("*.json"))) > 5)
        command.process.kill()
    assert not (tmp_path / "copy" / MANIFEST).exists()

    done = run(*pull, scratch=tmp_path, seconds=200)

    assert (done.status, done.err) == (0, "")
    assert contents(tmp_path / "copy") == contents(tmp_path / "store")
    assert run("verify", tmp_path / "copy", scratch=tmp_path, seconds=100).status == 0
    manifest = json.loads((tmp_path / "copy" / MANIFEST).read_bytes())
    assert set(manifest["files"]) == set(contents(tmp_path / "store"))
