"""`tesserae prepare` as a user types it: invalid words, other recipes, growth, concurrent runs."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.ingest.source_index import SourceIndex
from pipeline.store import document, records
from pipeline.store.open import open_objects
from tests.commands import ROOT, CommandResult, committed, run, saboteur, start, wait_until
from tests.images import contents, jpeg, make_folder, prepare_inline
from workflows.cli import COMMANDS, main

SMALL = ("--shard-rows", 8, "--chunk-rows", 4, "--no-dashboard")
CHOICES: dict[str, Any] = {"sizes": (8, 16), "shard_rows": 8, "chunk_rows": 4}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write 50 images, which give 7 shards."""
    return make_folder(tmp_path_factory.mktemp("source") / "train", 50)


@pytest.fixture(scope="module")
def reference_store(tmp_path_factory: pytest.TempPathFactory, source: Path) -> Path:
    """Prepare the store of these images in one run."""
    store = tmp_path_factory.mktemp("whole") / "store"
    prepare_inline(source, str(store), **CHOICES)
    return store


@pytest.fixture
def working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: Path, reference_store: Path
) -> Path:
    """Return a folder with images `src`, a store `good`, and many invalid inputs."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "src").symlink_to(source)
    shutil.copytree(reference_store, tmp_path / "good")
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.txt").write_text("no picture")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "letter.txt").write_text("not yours")
    (tmp_path / "flat").mkdir()
    (tmp_path / "flat" / "a.JPEG").write_bytes(jpeg(0))
    (tmp_path / "inside").mkdir()
    make_folder(tmp_path / "inside", 3)
    newer = shutil.copytree(reference_store, tmp_path / "newer")
    fields = json.loads((newer / "recipe.json").read_text())
    del fields["digest"]
    (newer / "recipe.json").write_bytes(document.encode_document({**fields, "format": 3}))
    lost = shutil.copytree(reference_store, tmp_path / "lost")
    (lost / "recipe.json").unlink()
    return tmp_path


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


# --- wrong words ----------------------------------------------------------------------------------

WRONG = {
    # the command and its words
    "frobnicate": "'frobnicate' is not a command: expected one of prepare, tune",
    "--frobnicate": "'--frobnicate' is not a command",
    "prepare": "required: SOURCE, STORE. See `tesserae prepare --help`",
    "prepare src": "required: STORE",
    "prepare src new more": "unexpected argument 'more'",
    "prepare src new --colour red": "there is no option --colour. See",
    "prepare src new --size 8": "there is no option --size (did you mean --sizes?)",
    # the source
    "prepare missing new": "missing': no such file or folder. Pass the folder",
    "prepare empty new": "no images found in ",
    "prepare file.txt new": "file.txt is not an archive of images: it is",
    "prepare flat new --split a b --class-name x/y": "--class-name is 'x/y': expected a name",
    "prepare src new --class-name x": "--class-name is 'x': it applies to images in one",
    "prepare src new --recursive middle": "--recursive: invalid choice: 'middle'",
    "prepare src new --source-kind zip": "invalid choice: 'zip' (choose from",
    "prepare src new --source-kind parquet": "not a source of kind 'parquet': looked for",
    "prepare  new": "SOURCE is empty: expected a folder",
    # the store
    "prepare src ": "STORE is empty: expected a folder",
    "prepare src file.txt": "file.txt: Not a directory. Choose a writable folder",
    "prepare src file.txt/new": "Not a directory. Choose a writable folder",
    "prepare src /proc/new": "cannot write to /proc/new: ",
    "prepare src other": "is not a store, and holds other files, such as 'letter.txt'. Choose a",
    "prepare inside inside": "lies in the source inside, which must not change. Choose a folder",
    "prepare inside inside/store": "lies in the source inside",
    "prepare src nowhere://new": "cannot open nowhere://new",
    "prepare src newer": "recipe.json has format 3: this version reads 1 and 2. Use the version",
    "prepare src lost": "has plans but no recipe.json. Run `tesserae repair`",
    # the recipe
    "prepare src new --sizes 0": "--sizes is 0: expected 1 to 4,096. See",
    "prepare src new --sizes -1": "--sizes is -1: expected 1 to 4,096",
    "prepare src new --sizes 5000": "--sizes is 5000: expected 1 to 4,096",
    "prepare src new --sizes abc": "--sizes is abc: expected a whole number, 1 to 4,096",
    "prepare src new --sizes 8.5": "--sizes is 8.5: expected a whole number",
    "prepare src new --sizes 72,224": "--sizes is 72,224: expected a whole number",
    "prepare src new --sizes": "--sizes: expected at least one argument",
    "prepare src new --sizes 8 8": "sizes are [8, 8]: one is given twice",
    "prepare src new --encoded": "--encoded: expected at least one argument",
    "prepare src new --encoded jpeg:0@90": "encoding is 'jpeg:0@90': expected original, or jpeg",
    "prepare src new --encoded jpeg:5000@90": "is 'jpeg:5000@90': expected original, or jpeg:N@Q",
    "prepare src new --encoded jpeg:256@0": "with a short side of 1 to 4096 pixels and a quality",
    "prepare src new --encoded jpeg:256@101": "and a quality of 1 to 100, such as jpeg:256@90",
    "prepare src new --encoded jpeg:256": "encoding is 'jpeg:256': expected original, or jpeg:N@Q",
    "prepare src new --encoded jpeg": "encoding is 'jpeg': expected original, or jpeg:N@Q",
    "prepare src new --encoded png:256": "encoding is 'png:256': expected original, or jpeg:N@Q",
    "prepare src new --encoded JPEG:256@90": "encoding is 'JPEG:256@90': expected original",
    "prepare src new --encoded Original": "encoding is 'Original': expected original, or jpeg:N@Q",
    "prepare src new --encoded ": "encoding is '': expected original, or jpeg:N@Q",
    "prepare src new --encoded original original": "encoded is ['original', 'original']: one is",
    "prepare src new --encoded jpeg:8@90 jpeg8@90": "['jpeg:8@90', 'jpeg8@90']: one is given twice",
    "prepare src new --encode original": "there is no option --encode (did you mean --encoded?)",
    "prepare src new --shard-rows 10 --chunk-rows 4": "a shard of 10 rows cannot be divided",
    "prepare src new --shard-rows 8": "cannot be divided into chunks of 16: choose --shard-rows",
    "prepare src new --shard-rows 0": "--shard-rows is 0: expected at least 1",
    "prepare src new --chunk-rows -4": "--chunk-rows is -4: expected at least 1",
    "prepare src new --codec gzip": "codec is 'gzip': expected none, zstd:LEVEL",
    "prepare src new --codec zstd": "codec is 'zstd': expected none",
    "prepare src new --codec zstd:99": "codec is 'zstd:99': expected",
    "prepare src new --fit stretch": "--fit: invalid choice: 'stretch' (choose from 'crop'",
    "prepare src new --filter cubic": "--filter: invalid choice: 'cubic'",
    "prepare src new --serves 0": "--serves is 0: expected at least 1",
    "prepare src new --seed x": "--seed is x: expected a whole number",
    "prepare src new --seed -1": "--seed is -1: expected 0 to 18,446,744,073,709,551,615",
    # the split
    "prepare src new --split a/b": "split is 'a/b': expected letters, digits",
    "prepare src new --split ..": "split is '..': expected letters",
    "prepare src new --split": "--split: expected at least one argument",
    "prepare src new --split a a": "--split is a a: a split is given twice",
    "prepare flat new --split vall": "--split is 'vall': did you mean val? flat indicates no split",
    # the run
    "prepare src new --workers 0": "--workers is 0: expected 1 to",
    "prepare src new --workers two": "--workers is two: expected a whole number, 1 to 10,000",
    "prepare src new --threads 0": "--threads is 0: expected 1 to",
    "prepare src new --limit 0": "--limit is 0: expected at least 1",
    "prepare src new --max-bad 2": "--max-bad is 2: expected 0 to 1",
    "prepare src new --max-bad -0.1": "--max-bad is -0.1: expected 0 to 1",
    "prepare src new --max-bad nan": "--max-bad is nan: expected a finite number, 0 to 1",
    "prepare src new --max-bad few": "--max-bad is few: expected a number, 0 to 1",
    "prepare src new --image-timeout 0": "--image-timeout is 0: expected 0.001 to 86,400",
    "prepare src new --image-timeout inf": "--image-timeout is inf: expected",
    # another recipe than the store's
    "prepare src good --sizes 8 --fit pad": "fit is 'crop' in the store, 'pad' was requested",
    "prepare src good --sizes 8 --filter box": "filter is 'bicubic' in the store, 'box' was",
    "prepare src good --sizes 8 --exif": "exif is False in the store, True was requested",
    "prepare src good --sizes 8 --shard-rows 16": "shard_rows is 8 in the store, 16 was requested",
    "prepare src good --sizes 8 --codec zstd:1": "codec is 'none' in the store, 'zstd:1' was",
    "prepare src good --sizes 8 --serves 99": "serves is 16 in the store, 99 was requested",
    "prepare src good --sizes 8 --seed 1": "the seed is 0 in the store, 1 now. Pass the same",
    "prepare inside good --sizes 8": "the number of samples is 50 in the store, 3 now",
    # other commands
    "verify": "required: STORE",
    "verify missing": "no store at ",
    "verify other": "no store at ",
    "verify file.txt": "no store at ",
    "verify good --split val": "no split 'val' in ",
    "repair missing": "no store at ",
    "repair good --split val": "no split 'val' in ",
    "info missing": "it has no recipe.json. Pass the folder that `tesserae prepare",
    "info other": "no store at ",
    "info newer": "recipe.json has format 3: this version reads 1 and 2",
    "info good --xml": "there is no option --xml",
    "doctor --xml": "there is no option --xml",
}


@pytest.mark.parametrize("words", WRONG)
def test_invalid_arguments_are_one_line_errors(
    working_folder: Path, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The exit status is 1, the error has the expected values, and no file is left."""
    before = {path: path.stat().st_mtime_ns for path in working_folder.rglob("*") if path.is_file()}
    assert main(words.split(" ")) == 1
    printed = capsys.readouterr()
    assert printed.err.startswith("tesserae: ")
    assert WRONG[words] in printed.err
    assert printed.err.count("\n") == 1
    assert "Traceback" not in printed.err
    assert "Errno" not in printed.err
    after = {path: path.stat().st_mtime_ns for path in working_folder.rglob("*") if path.is_file()}
    assert {path for path in after if ".tmp" not in path.parts} == set(before)
    assert all(after[path] == before[path] for path in before)


def test_debug_shows_the_traceback(working_folder: Path) -> None:
    """The option may be anywhere on the command line."""
    with pytest.raises(ValueError, match="sizes are"):
        main(["prepare", "src", "new", "--debug", "--sizes", "8", "8"])


def test_a_missing_split_is_reported_before_any_work(
    working_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The splits before it are not prepared first."""
    make_folder(working_folder / "two" / "train", 3)
    assert main(["prepare", "two", "new", "--split", "train", "val"]) == 1
    assert "has no split 'val': it holds train" in capsys.readouterr().err
    assert not (working_folder / "new").exists()


@pytest.mark.slow
def test_closed_output_does_not_stop_a_command(working_folder: Path) -> None:
    """A job without a terminal may start with closed descriptors."""
    command = f"{sys.executable} -m workflows"
    for words, closed, status in (
        ("info good", ">&-", 0),
        ("info good", ">&- 2>&- <&-", 0),
        ("verify good", ">&-", 0),
        ("info nothing", "2>&-", 1),
    ):
        shell = f"{command} {words} {closed}"
        path = {**os.environ, "PYTHONPATH": str(ROOT)}
        ended = subprocess.run(shell, shell=True, cwd=working_folder, env=path, capture_output=True)
        assert (ended.returncode, ended.stdout, ended.stderr) == (status, b"", b""), shell


def test_a_tilde_is_expanded(
    working_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A tilde that the shell did not expand is expanded by the command."""
    monkeypatch.setenv("HOME", str(working_folder))
    assert main(["info", "~/good"]) == 0
    assert capsys.readouterr().out.startswith(str(working_folder / "good"))


def test_no_arguments_print_the_overview(capsys: pytest.CaptureFixture[str]) -> None:
    """The words `help` and `--help` print the same."""
    for words in ([], ["--help"], ["help"]):
        assert main(words) == 0
        lines = re.findall(r"^  ([a-z-]+ +)\w", capsys.readouterr().out, re.MULTILINE)
        assert [line.strip() for line in lines] == list(COMMANDS)
        assert len(set(map(len, lines))) == 1, "all summaries begin in one column"
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("tesserae")


# --- another listing ------------------------------------------------------------------------------


def test_another_listing_is_refused_with_the_difference(
    tmp_path: Path, source: Path, reference_store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file is added, removed, or of another size."""
    store = shutil.copytree(reference_store, tmp_path / "store")
    words = ["prepare", str(tmp_path / "train"), str(store), "--sizes", "8", "16"]
    changed = shutil.copytree(source, tmp_path / "train")
    first = sorted(changed.rglob("*.JPEG"))[0]

    def refused() -> str:
        assert main(words) == 1
        return capsys.readouterr().err

    extra = first.with_name("extra.JPEG")
    extra.write_bytes(jpeg(99))
    assert "the number of samples is 50 in the store, 51 now" in refused()
    extra.unlink()
    original = first.read_bytes()
    first.unlink()
    assert "the number of samples is 50 in the store, 49 now" in refused()
    first.write_bytes(original + b"\0")
    assert "the digest of the listing is " in refused()
    assert contents(store) == contents(reference_store)


@pytest.mark.slow
def test_an_unchanged_source_is_not_listed_again(tmp_path: Path, source: Path) -> None:
    """The second run of a finished split reads and changes nothing."""
    store = tmp_path / "store"
    first = run("prepare", source, store, *SMALL, "--sizes", 8, "--workers", 1, scratch=tmp_path)
    assert first.status == 0
    before = stamps(store)
    again = run("prepare", source, store, *SMALL, "--sizes", 8, "--workers", 1, scratch=tmp_path)
    assert (again.status, again.err) == (0, "")
    assert "listed by an earlier run" in again.out
    assert stamps(store) == before


def stamps(store: Path) -> dict[str, tuple[int, int]]:
    """Return (inode, modification time) of each file, without reports and temporary files."""
    return {
        str(file.relative_to(store)): (file.stat().st_ino, file.stat().st_mtime_ns)
        for file in store.rglob("*")
        if file.is_file() and file.relative_to(store).parts[0] not in (".tmp", "report.html")
    }


# --- limits, growth, workers ----------------------------------------------------------------------


def prepare(tmp_path: Path, source: Path, *words: object, workers: int = 2) -> Any:
    """Prepare the store `store` in *tmp_path*."""
    more = (*SMALL, "--workers", workers, *words)
    return run("prepare", source, tmp_path / "store", *more, scratch=tmp_path)


@pytest.mark.slow
def test_a_limit_stops_after_whole_shards(
    tmp_path: Path, source: Path, reference_store: Path
) -> None:
    """A later run without the limit gives the same bytes."""
    store = tmp_path / "store"
    limited = prepare(tmp_path, source, "--sizes", 8, 16, "--limit", 17)
    assert (limited.status, limited.err) == (0, "")
    assert committed(store) == 3
    assert "24 of 50 rows are committed; the split is not finished" in limited.out
    verified = run("verify", store, scratch=tmp_path)
    assert verified.status == 1
    assert "not finished: 4 of 7 shards are not committed" in verified.out
    before = stamps(store)
    same = prepare(tmp_path, source, "--sizes", 8, 16, "--limit", 24)
    assert (same.status, stamps(store)) == (0, before)
    resumed = prepare(tmp_path, source, "--sizes", 8, 16)
    assert (resumed.status, resumed.err) == (0, "")
    assert contents(store) == contents(reference_store)
    assert {k: v for k, v in stamps(store).items() if "/c.0." in k and "status" not in k} == {
        k: v for k, v in before.items() if "/c.0." in k and "status" not in k
    }


@pytest.mark.slow
def test_a_further_size_changes_only_its_own_files(
    tmp_path: Path, source: Path, reference_store: Path
) -> None:
    """Image objects are added; only the commits, the finish record and the ledger change."""
    store = tmp_path / "store"
    assert prepare(tmp_path, source, "--sizes", 8, "--serves", 16).status == 0
    before = stamps(store)
    grown = prepare(tmp_path, source, "--sizes", 16)
    assert (grown.status, grown.err) == (0, "")
    after = stamps(store)
    changed = {name for name in before if after[name] != before[name]}
    records = {"splits/train.done.json", "splits/train.ledger.jsonl"}
    assert changed == records | {f"commits/train/{shard:06d}.json" for shard in range(7)}
    assert {name.rpartition("/")[0] for name in after.keys() - before.keys()} == {
        "images.zarr/train/16"
    }
    assert contents(store) == contents(reference_store)
    assert run("verify", store, scratch=tmp_path).status == 0


@pytest.mark.slow
def test_a_changed_image_is_found_when_a_size_is_added(tmp_path: Path, source: Path) -> None:
    """An image with other bytes of the same length fails its checksum; nothing is committed."""
    changed = shutil.copytree(source, tmp_path / "train")
    assert prepare(tmp_path, changed, "--sizes", 8).status == 0
    file = sorted(changed.rglob("*.JPEG"))[20]
    data = bytearray(file.read_bytes())
    data[-10] ^= 1
    file.write_bytes(data)
    before = contents(tmp_path / "store", provenance=True)
    grown = prepare(tmp_path, changed, "--sizes", 16)
    assert grown.status == 1
    assert f"the bytes of '{file.parent.name}/{file.name}' are not those that were committed" in (
        grown.err
    )
    assert grown.err.count("\n") == 1
    after = contents(tmp_path / "store", provenance=True)
    old = {n for n in before if not n.startswith("commits/") and "done" not in n}
    assert {n: after[n] for n in old} == {n: before[n] for n in old}


@pytest.mark.slow
def test_an_image_that_grew_since_it_was_listed_fails_its_shard(
    tmp_path: Path, source: Path
) -> None:
    """The image is named and not quarantined, and all other shards are committed."""
    changed = shutil.copytree(source, tmp_path / "train")
    assert prepare(tmp_path, changed, "--sizes", 8, "--limit", 8).status == 0
    grown = file_of_row(tmp_path / "store", changed, 30)
    data = grown.read_bytes()
    with grown.open("ab") as file:  # in place: the folder is as it was, the listing is kept
        file.write(b"\0")
    with saboteur(tmp_path / "path", HURRY) as path:
        words = (*SMALL, "--workers", 2, "--sizes", 8)
        failed = run(
            "prepare", changed, tmp_path / "store", *words, scratch=tmp_path, extra_path=path
        )
    assert failed.status == 1
    assert f"{grown.name} has {len(data) + 1} bytes, was listed with {len(data)}" in failed.err
    assert "1 shard of split 'train' failed" in failed.err
    assert committed(tmp_path / "store") == 6
    grown.write_bytes(data)
    assert prepare(tmp_path, changed, "--sizes", 8).status == 0


HURRY = """
def hurry(module):
    module.ShardTaskConfig.__init__.__kwdefaults__["retry_delay_seconds"] = 0.01

after_import("pipeline.ingest.shard_task", hurry)
"""


def file_of_row(store: Path, source: Path, row: int) -> Path:
    """Return the image of a row."""
    objects = open_objects(str(store))
    rows = SourceIndex(objects, records.load_plan(objects, "train"))
    try:
        return source / rows.shard(row // 8)[row % 8].key
    finally:
        rows.close()


@pytest.mark.slow
def test_threads_and_processes_give_the_same_store(
    tmp_path: Path, source: Path, reference_store: Path
) -> None:
    """One worker with two threads gives the bytes of two workers with one."""
    done = prepare(tmp_path, source, "--sizes", 8, 16, "--threads", 2, workers=1)
    assert (done.status, done.err) == (0, "")
    assert contents(tmp_path / "store") == contents(reference_store)


# --- too much that is broken ----------------------------------------------------------------------


@pytest.mark.slow
def test_too_many_broken_images_stop_the_run(tmp_path: Path) -> None:
    """The error has the reasons; with a larger share the next run continues."""
    source = make_folder(tmp_path / "train", 200, bad=6)
    stopped = prepare(tmp_path, source, "--sizes", 8)
    assert stopped.status == 1
    assert stopped.err.count("\n") == 1
    told = re.search(
        r"(\d) of the first (\d+) images are unreadable \((\d) truncated\); --max-bad 0.01 allows 2"
        r" of 200\..* pass a larger --max-bad",
        stopped.err,
    )
    assert told
    bad, seen, truncated = map(int, told.groups())
    # It was told before all six were seen. How many shards workers commit meanwhile is open.
    assert 2 < bad == truncated < 6
    assert seen < 200
    assert committed(tmp_path / "store")
    again = prepare(tmp_path, source, "--sizes", 8)
    assert again.status == 1, "those of earlier runs count too"
    before = stamps(tmp_path / "store")
    resumed = prepare(tmp_path, source, "--sizes", 8, "--max-bad", 0.05)
    assert (resumed.status, resumed.err) == (0, "")
    after = stamps(tmp_path / "store")
    commits = [name for name in before if name.startswith("commits/")]
    # A shard that was broken off before its commit may be written again.
    shards = [f"images.zarr/train/8/c.{int(Path(name).stem)}.0.0.0" for name in commits] + commits
    assert shards
    assert all(after[name] == before[name] for name in shards)
    prepare_inline(source, str(tmp_path / "clean"), **{**CHOICES, "sizes": (8,)})
    assert contents(tmp_path / "store") == contents(tmp_path / "clean")
    finished = prepare(tmp_path, source, "--sizes", 8)
    assert finished.status == 1, "what was committed before changes no answer"
    assert "6 of the first 200 images are unreadable (6 truncated)" in finished.err
    assert stamps(tmp_path / "store").items() >= after.items()


# --- two at once ----------------------------------------------------------------------------------

DELAYED_READS = """
import os, time
from pathlib import Path

def hold(module):
    read_ahead = module.read_ahead
    calls = []

    def held(*args, **options):
        calls.append(1)
        while len(calls) > 1 and not Path(os.environ["GO"]).exists():
            time.sleep(0.05)
        return read_ahead(*args, **options)

    module.read_ahead = held

after_import("pipeline.ingest.readahead", hold)
"""
"""Code that makes every worker read one shard, and the others once the file GO exists."""


def test_concurrent_runs_of_one_split_are_refused_or_wait(
    tmp_path: Path, source: Path, reference_store: Path
) -> None:
    """The error names the process of the first run; a waiting run finds nothing to do."""
    store = tmp_path / "store"
    go = tmp_path / "go"
    words = ("prepare", source, store, *SMALL, "--sizes", 8, 16, "--workers", 1)
    with (
        saboteur(tmp_path / "path", DELAYED_READS) as path,
        start(*words, scratch=tmp_path, extra_path=path, GO=str(go)) as first,
    ):
        assert wait_until(lambda: committed(store) > 0)
        refused = run(*words, scratch=tmp_path)
        assert refused.status == 1
        assert f"is being written by process {first.process.pid} on {os.uname().nodename}" in (
            refused.err
        )
        assert "Wait for it to end, or pass --wait" in refused.err
        assert first.running()
        with start(*words, "--wait", scratch=tmp_path) as second:
            assert wait_until(lambda: "waiting" in second.out.lower())
            go.touch()
            assert second.wait() == 0
            waited = CommandResult(0, second.out, second.err)
        assert first.wait() == 0
    assert (waited.status, waited.err) == (0, "")
    assert "listed by an earlier run" in waited.out
    assert contents(store) == contents(reference_store)


def test_every_split_is_prepared_by_default(tmp_path: Path) -> None:
    """A command without --split prepares the whole set."""
    root = tmp_path / "images"
    make_folder(root / "train", 8)
    make_folder(root / "val", 8)
    words = ("prepare", root, tmp_path / "store", *SMALL, "--sizes", 8, "--workers", 1)
    ended = run(*words, scratch=tmp_path)
    assert (ended.status, ended.err) == (0, "")
    assert {split.stem for split in (tmp_path / "store" / "samples").glob("*.parquet")} == {
        "train",
        "val",
    }


@pytest.mark.slow
@pytest.mark.parametrize("round_", range(3))
def test_two_splits_of_a_new_store_can_be_prepared_at_once(tmp_path: Path, round_: int) -> None:
    """The first run writes the recipe, and both reports are complete."""
    root = tmp_path / "images"
    make_folder(root / "train", 40)
    make_folder(root / "val", 40)
    store = tmp_path / "store"
    words = ("prepare", root, store, *SMALL, "--sizes", 8, "--workers", 1)
    with (
        start(*words, "--split", "train", scratch=tmp_path) as train,
        start(*words, "--split", "val", scratch=tmp_path) as val,
    ):
        assert (train.wait(), train.err) == (0, "")
        assert (val.wait(), val.err) == (0, "")
    assert run("verify", store, scratch=tmp_path).status == 0
