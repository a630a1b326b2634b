"""`tesserae features` as a person runs it."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from pipeline.store import features, layout
from pipeline.store.objects import open_objects
from tests.commands import Ended, start, wait_until
from tests.commands import run as run_command
from tests.pictures import make_folder, prepare_inline
from tests.workflows.devise.small import SIZE, small_trunk

SECONDS = 110.0


def run(*words: object, scratch: Path) -> Ended:
    """Run a command to its end."""
    return run_command(*words, scratch=scratch, seconds=SECONDS)


@pytest.fixture(scope="module")
def trunk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small network."""
    return small_trunk(tmp_path_factory.mktemp("trunk") / "small")


def store_of(root: Path, rows: int) -> Path:
    """Pictures in two splits, in shards of 8."""
    for split, count in (("train", rows), ("val", 10)):
        source = make_folder(root / split, count)
        prepare_inline(source, str(root / "store"), split=split, sizes=(SIZE,))
    return root / "store"


def promised(store: Path) -> dict[str, bytes]:
    """All of the features but commits, which say when and where."""
    root = store / layout.FEATURES
    return {
        str(file.relative_to(root)): file.read_bytes()
        for file in sorted(root.rglob("*"))
        if file.is_file() and "commits" not in file.parts
    }


def test_all_finished_splits_are_run_over_once(trunk: Path, tmp_path: Path) -> None:
    """Again is nothing; verify and info know of them; what is damaged is made anew."""
    store = store_of(tmp_path, 20)
    command = ("features", store, "--trunk", trunk, "--no-dashboard")
    done = run(*command, scratch=tmp_path)
    assert done.status == 0, done.err
    assert "train: features: 20 images" in done.out
    (name,) = features.names(open_objects(str(store)))
    assert f"features {name}, 256 numbers of each picture" in done.out
    again = run(*command, scratch=tmp_path)
    assert again.out.count("are there") == 2
    whole = promised(store)

    checked = run("verify", store, scratch=tmp_path)
    assert checked.status == 0
    assert f"features {name}: whole" in checked.out
    facts = json.loads(run("info", store, "--json", scratch=tmp_path).out)["features"]
    assert facts[name]["splits"] == {"train": ["plain"], "val": ["plain"]}
    assert (facts[name]["dim"], facts[name]["num_bytes"]) == (256, 30 * 1024)
    assert name in run("info", store, scratch=tmp_path).out

    shard = store / layout.features_shard(name, "train", "plain", 1)
    data = bytearray(shard.read_bytes())
    data[100] ^= 1
    shard.write_bytes(data)
    checked = run("verify", store, scratch=tmp_path)
    assert checked.status == 1
    assert f"{layout.features_shard(name, 'train', 'plain', 1)}: damaged" in checked.out
    assert "--repair makes them anew" in checked.out
    mended = run(*command, "--repair", scratch=tmp_path)
    assert mended.status == 0, mended.err
    assert promised(store) == whole
    assert run("verify", store, scratch=tmp_path).status == 0


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_run_that_is_broken_off_goes_on(trunk: Path, tmp_path: Path, how: int) -> None:
    """And comes to the same bytes, with another number of workers."""
    store, other = store_of(tmp_path / "one", 150), store_of(tmp_path / "other", 150)
    whole = run("features", other, "--trunk", trunk, "--workers", 1, scratch=tmp_path)
    assert whole.status == 0, whole.err
    words = ("features", store, "--trunk", trunk, "--mirrored", "--workers", 2)

    def committed() -> int:
        return len(list(store.glob(f"{layout.FEATURES}/*/commits/train/*.json")))

    with start(*words, scratch=tmp_path) as command:
        assert wait_until(lambda: committed() >= 2, SECONDS)
        command.process.send_signal(how)
        status = command.wait(SECONDS)
    assert status == (130 if how == signal.SIGINT else -signal.SIGKILL)
    if how == signal.SIGINT:
        assert "Run the same command again to go on." in command.err
    done = run(*words, scratch=tmp_path)
    assert done.status == 0, done.err
    made = promised(store)
    plain = {name: data for name, data in promised(other).items() if "/plain/" in name}
    assert plain
    assert {name: made[name] for name in plain} == plain


def test_what_makes_no_sense_is_a_sentence(trunk: Path, tmp_path: Path) -> None:
    """Before a cluster is started."""
    store = store_of(tmp_path, 9)
    for words, says in (
        ((), "--trunk"),
        (("--trunk", tmp_path / "none"), "is no backbone"),
        (("--trunk", trunk, "--cut", "nowhere"), "has no block 'nowhere': expected one of"),
        (("--trunk", trunk, "--pooling", "token"), "has no tokens"),
        (("--trunk", trunk, "--size", 99), "has no 99 px"),
        (("--trunk", trunk, "--split", "test"), "no plan for split 'test'"),
        (("--trunk", trunk, "--workers", 0), "--workers is 0"),
    ):
        done = run("features", store, *words, "--no-dashboard", scratch=tmp_path)
        assert done.status == 1, words
        assert says in done.err
        assert "Traceback" not in done.err
    assert "no store at" in run("features", tmp_path / "none", "--trunk", trunk,
                                scratch=tmp_path).err  # fmt: skip
