"""`tesserae features` as a user runs it, and the features in the output of `verify` and `info`."""

from __future__ import annotations

import json
import shutil
import signal
from io import StringIO
from pathlib import Path

import numpy as np
import pytest

from pipeline.backbone.load import open_backbone
from pipeline.errors import TesseraeError
from pipeline.features.reader import open_features
from pipeline.features.shard_task import RowsReport
from pipeline.loader import Loader
from pipeline.store import derived, features, layout
from pipeline.store.open import open_objects
from tests.commands import CommandResult, start, wait_until
from tests.commands import run as run_command
from tests.damage import damage
from tests.images import make_folder, prepare_inline
from tests.inline import tesserae
from tests.workflows.devise.small import SIZE, features_inline, small_trunk
from workflows import cli
from workflows.preparation import features as command
from workflows.preparation.derived_rows import RowCounter
from workflows.preparation.options import FeaturesOptions
from workflows.terminal.progress import Progress

SECONDS = 110.0


def run(*words: object, scratch: Path) -> CommandResult:
    """Run a command to its end."""
    return run_command(*words, "--no-dashboard", scratch=scratch, seconds=SECONDS)


@pytest.fixture(scope="module")
def trunk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a small network."""
    return small_trunk(tmp_path_factory.mktemp("trunk") / "small")


def store_of(root: Path, rows: int) -> Path:
    """Create a store with two splits, in shards of 8 rows."""
    for split, count in (("train", rows), ("val", 10)):
        source = make_folder(root / split, count)
        prepare_inline(source, str(root / "store"), split=split, sizes=(SIZE,))
    return root / "store"


def promised(store: Path) -> dict[str, bytes]:
    """Return the reproducible files of features: all but commits, which record time and host."""
    root = store / layout.FEATURES.folder
    return {
        str(file.relative_to(root)): file.read_bytes()
        for file in sorted(root.rglob("*"))
        if file.is_file() and "commits" not in file.parts
    }


@pytest.mark.slow
def test_features_of_all_finished_splits_are_extracted_once(
    trunk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A second run computes nothing and starts no cluster."""
    store = store_of(tmp_path, 20)
    done = run("features", store, "--trunk", trunk, "--workers", 1, scratch=tmp_path)
    assert done.status == 0, done.err
    assert "train: features: 20 images" in done.out
    (name,) = features.names(open_objects(str(store)))
    assert f"features {name}, 256 dimensions" in done.out
    assert set(derived.splits_of(open_objects(str(store)), features.FAMILY)[name]) == {
        "train",
        "val",
    }
    status, out = run_inline(monkeypatch, capsys, "features", store, "--trunk", trunk)
    assert (status, out.count("exist already")) == (0, 2)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_repair_recomputes_damaged_features(trunk: Path, tmp_path: Path) -> None:
    """Without --repair, only missing files are computed."""
    store = store_of(tmp_path, 20)
    command = ("features", store, "--trunk", trunk, "--mirrored")
    assert run(*command, scratch=tmp_path).status == 0
    (name,) = features.names(open_objects(str(store)))
    complete = promised(store)
    shard = layout.FEATURES.shard(name, "train", "mirrored", 1)
    damage(store, shard, "flip", np.random.default_rng(0))
    blind = run(*command, scratch=tmp_path)
    assert blind.out.count("exist already") == 2
    repaired = run(*command[:-1], "--repair", scratch=tmp_path)  # what was promised once is kept
    assert repaired.status == 0, repaired.err
    assert f"  {shard}: missing or damaged" in repaired.out
    assert "train: features: 8 images" in repaired.out
    assert promised(store) == complete
    damage(store, shard, "remove", np.random.default_rng(0))
    assert run(*command, scratch=tmp_path).status == 0
    assert promised(store) == complete


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_run_resumes(trunk: Path, tmp_path: Path, how: int) -> None:
    """The result has the same bytes, with another number of workers."""
    store = store_of(tmp_path, 150)
    reference = Path(shutil.copytree(store, tmp_path / "other"))
    complete_run = run(
        "features", reference, "--trunk", trunk, "--mirrored", "--workers", 1, scratch=tmp_path
    )
    assert complete_run.status == 0, complete_run.err
    arguments = ("features", store, "--trunk", trunk, "--mirrored", "--workers", 2)

    def committed() -> int:
        return len(list(store.glob(f"{layout.FEATURES.folder}/*/commits/train/*.json")))

    with start(*arguments, "--no-dashboard", scratch=tmp_path) as command:
        assert wait_until(lambda: committed() >= 2, SECONDS)
        command.process.send_signal(how)
        status = command.wait(SECONDS)
        assert command.gone()
    assert status == (130 if how == signal.SIGINT else -signal.SIGKILL)
    if how == signal.SIGINT:
        assert "Run the same command again to continue." in command.err
    done = run(*arguments, scratch=tmp_path)
    assert done.status == 0, done.err
    assert promised(store) == promised(reference)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_concurrent_runs_are_serialised_or_refused(trunk: Path, tmp_path: Path) -> None:
    """The second run is refused, or waits and finds nothing to do."""
    store = store_of(tmp_path, 150)
    words = ("features", store, "--trunk", trunk, "--workers", 1, "--split", "train")
    locks = f"{layout.TEMPORARY}/features.*.train.lock"
    with start(*words, "--no-dashboard", scratch=tmp_path) as first:
        assert wait_until(lambda: list(store.glob(locks)), SECONDS)
        refused = run(*words, scratch=tmp_path)
        with start(*words, "--wait", "--no-dashboard", scratch=tmp_path) as second:
            assert (first.wait(SECONDS), second.wait(SECONDS)) == (0, 0)
    assert refused.status == 1
    assert "is being written by process" in refused.err
    assert "Wait for it to end, or pass --wait" in refused.err


def test_invalid_arguments_are_one_line_errors(
    trunk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error is raised before a cluster is started."""
    monkeypatch.setattr(
        "workflows.cluster_kinds.CommandCluster._start", lambda _: pytest.fail("started")
    )
    store = store_of(tmp_path, 9)
    for words, says in (
        ((), "--trunk"),
        (("--trunk", tmp_path / "none"), "is not a backbone"),
        (("--trunk", "new"), "--trunk new is untrained"),
        (("--trunk", trunk, "--cut", "nowhere"), "has no block 'nowhere': expected one of"),
        (("--trunk", trunk, "--pooling", "token"), "have no tokens: pass --pooling mean"),
        (("--trunk", trunk, "--size", 99), "has no images of 99 px: it has 32"),
        (("--trunk", trunk, "--size", 0), "--size is 0: expected 1 to 4,096"),
        (("--trunk", trunk, "--gpus", -1), "--gpus is -1: expected at least 0"),
        (("--trunk", trunk, "--split", "test"), "no split 'test'"),
        (("--trunk", trunk, "--workers", 0), "--workers is 0: expected 1 to 10,000"),
        (("--trunk", trunk, "--threads", 0), "--threads is 0: expected 1 to 1,000"),
    ):
        with pytest.raises((TesseraeError, ValueError), match=says):
            cli.main(["--debug", "features", str(store), *map(str, words)])
    done = run("features", tmp_path / "none", "--trunk", trunk, scratch=tmp_path)
    assert (done.status, done.err.count("\n")) == (1, 1)
    assert "no store at" in done.err


def test_rows_of_a_shard_are_counted_once_while_it_is_computed() -> None:
    """The end of a shard counts its remaining rows; rows that are computed again do not count."""
    with Progress("features", rows=20, stream=StringIO(), live=False) as progress:
        rows = RowCounter(progress)
        for rows_so_far in (4, 6, 2):
            rows.receive((0.0, {"shard": 3, "rows": rows_so_far}))
        rows.tick()
        assert progress.count_line().startswith("6 of 20 images")
        rows.end(RowsReport(shard=3, num_rows=8, bytes_out=32, seconds=1.0))
        rows.receive((0.0, {"shard": 3, "rows": 7}))
        rows.tick()
        rows.end(RowsReport(shard=4, num_rows=5, bytes_out=20, seconds=1.0))
        assert progress.count_line().startswith("13 of 20 images")


def test_workers_get_the_absolute_path_of_a_network(
    trunk: Path, prepared: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers may have another working folder than the command."""
    trunks: list[str] = []
    monkeypatch.setattr(
        command,
        "compute_rows",
        lambda _, plan, request, *rest: trunks.append(request.tasks.keywords["trunk"]),
    )
    monkeypatch.chdir(trunk.parent)
    config = FeaturesOptions(store=str(prepared[0]), trunk=trunk.name, repair=True)
    command.compute_split_features(config, "train", None)  # type: ignore[arg-type]
    assert trunks == [str(trunk)]


@pytest.mark.slow
def test_missing_gpus_are_an_error(trunk: Path, tmp_path: Path) -> None:
    """The run neither waits for GPUs nor computes without them."""
    store = store_of(tmp_path, 9)
    done = run("features", store, "--trunk", trunk, "--workers", 1, "--gpus", 40, scratch=tmp_path)
    assert done.status == 1
    assert "--gpus is 40: the cluster has" in done.err
    assert not promised(store).keys() & {"c.0.0"}


@pytest.fixture(scope="module")
def prepared(trunk: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Return a store with features of both kinds and both splits, and their name."""
    store = store_of(tmp_path_factory.mktemp("made"), 20)
    names = {features_inline(store, trunk, split) for split in ("train", "val")}
    return store, names.pop()


@pytest.fixture
def store(prepared: tuple[Path, str], tmp_path: Path) -> Path:
    """Return a copy of the store that a test may damage."""
    return Path(shutil.copytree(prepared[0], tmp_path / "store"))


def run_inline(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: object
) -> tuple[int, str]:
    """Run a command in this process; return its exit status and its output."""
    capsys.readouterr()
    status = tesserae(monkeypatch, *words)
    return status, capsys.readouterr().out


def test_the_reason_for_extracting_features_is_printed(
    prepared: tuple[Path, str], store: Path, trunk: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """The reason is printed if features with other options exist, but not by a repair."""
    _, name = prepared
    for name_of in ("compute_missing_rows", "extract.finish"):
        monkeypatch.setattr(f"workflows.preparation.derived_rows.{name_of}", lambda *_: None)
    words = ("features", store, "--trunk", trunk, "--split", "train")
    status, out = run_inline(monkeypatch, capsys, *words, "--dtype", "float16")
    assert status == 0
    assert (
        f"train: extracting features, because those stored as {name} have dtype float32, not flo"
        in out
    )
    status, out = run_inline(monkeypatch, capsys, *words, "--repair")
    assert (status, "extracting features" in out) == (0, False)


def test_verify_checks_features(
    prepared: tuple[Path, str], store: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """The output has files and bytes, the problems, and the command that repairs them."""
    status, out = run_inline(monkeypatch, capsys, "verify", store)
    assert status == 0
    # recipe and metadata (5), shards of two kinds and their commits (3 of each)
    assert f"train: features {prepared[1]}: ok; 14 files, " in out
    assert f"val: features {prepared[1]}: ok; 11 files" in out
    shard = layout.FEATURES.shard(prepared[1], "train", "mirrored", 1)
    damage(store, shard, "flip", np.random.default_rng(0))
    status, out = run_inline(monkeypatch, capsys, "verify", store)
    assert status == 1
    assert f"train: features {prepared[1]}: 1 damaged or missing" in out
    assert f"  {shard}: damaged\n" in out
    assert (
        "`tesserae features STORE --trunk MODEL --size 32 --mirrored --split train --repair`"
        " recomputes only the damaged and missing files"
    ) in out
    assert run_inline(monkeypatch, capsys, "verify", store, "--split", "val")[0] == 0


def test_verify_distinguishes_unfinished_from_damaged_features(
    prepared: tuple[Path, str], store: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """An unfinished split and a missing recipe both fail, with different advice."""
    (store / layout.FEATURES.done(prepared[1], "val")).unlink()
    status, out = run_inline(monkeypatch, capsys, "verify", store)
    assert status == 1
    assert f"val: features {prepared[1]}: not finished; " in out
    assert "--split val` computes the unfinished shards" in out
    (store / layout.FEATURES.recipe(prepared[1])).unlink()
    _, out = run_inline(monkeypatch, capsys, "verify", store)
    assert f"  {layout.FEATURES.recipe(prepared[1])}: missing\n" in out
    assert "Run the same `tesserae features` as before to restore it" in out


def test_verify_reports_features_of_a_missing_split(
    prepared: tuple[Path, str], store: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Unknown files are noted, but are no problem."""
    stray = layout.FEATURES.shard(prepared[1], "train", "plain", 99)
    (store / stray).write_bytes(b"x")
    status, out = run_inline(monkeypatch, capsys, "verify", store)
    assert status == 0
    assert f"note: {stray} belongs to no commit; it is harmless and may be deleted." in out
    for folder in ("splits", "commits", "samples", "images.zarr"):
        for path in (store / folder).glob("val*"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    status, out = run_inline(monkeypatch, capsys, "verify", store)
    assert status == 1
    assert "belongs to a split that the store does not have" in out


def test_info_lists_features(
    prepared: tuple[Path, str], store: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Network, layer, size and damaged files are shown, as text and as JSON."""
    facts = json.loads(run_inline(monkeypatch, capsys, "info", store, "--json")[1])["features"]
    description = facts[prepared[1]]
    assert (
        description["dim"],
        description["dtype"],
        description["pooling"],
        description["cut"],
    ) == (256, "float32", "end", "")
    assert description["trunk"] == "MobileNetV1Model (small)"
    train = description["splits"]["train"]
    assert (train["finished"], train["kinds"]) == (True, ["plain", "mirrored"])
    folder = store / layout.FEATURES.folder / prepared[1] / "features.zarr"
    shards = [file.stat().st_size for file in folder.rglob("c.*")]
    assert description["num_bytes"] == sum(shards)
    _, out = run_inline(monkeypatch, capsys, "info", store)
    assert f"  features {prepared[1]}  " in out
    assert "256 x float32, trunk MobileNetV1Model (small), cut end, pooling end; 32 px" in out
    assert "train  finished: plain, mirrored; 3 shards" in out
    (store / layout.FEATURES.commit(prepared[1], "train", 2)).write_bytes(b"x")
    (store / layout.FEATURES.done(prepared[1], "val")).unlink()
    _, out = run_inline(monkeypatch, capsys, "info", store)
    assert f"{layout.FEATURES.commit(prepared[1], 'train', 2)}: damaged" in out
    assert "val  not finished: plain, mirrored; 2 shards" in out
    (store / layout.FEATURES.recipe(prepared[1])).write_bytes(b"x")
    status, out = run_inline(monkeypatch, capsys, "info", store)
    assert status == 0
    assert f"{layout.FEATURES.recipe(prepared[1])}: damaged" in out


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_features_of_photographs_match_the_loader(real_data: Path, tmp_path: Path) -> None:
    """The features equal those of the batches that a loader returns for the same rows."""
    trunk = real_data / "mobilenet_v1_0.75_224"
    files = sorted((real_data / "imagenet" / "train").glob("*/*.JPEG"))[:24]
    for file in files:
        target = tmp_path / "images" / file.parent.name
        target.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target / file.name)
    store = tmp_path / "store"
    sizes = ("--sizes", 72, 224, "--shard-rows", 16, "--workers", 1)
    done = run("prepare", tmp_path / "images", store, *sizes, scratch=tmp_path)
    assert done.status == 0, done.err
    done = run("features", store, "--trunk", trunk, "--workers", 1, scratch=tmp_path)
    assert done.status == 0, done.err
    (name,) = features.names(open_objects(str(store)))
    stored = open_features(store, name, "train")
    assert (stored.recipe.stored_size, stored.dim) == (224, 768)
    backbone = open_backbone(trunk)
    for batch in Loader(store, size=224, batch_size=8, rank=0, world=1):
        expected = backbone.extract(batch.images)  # type: ignore[arg-type]
        rows = stored.rows(batch.rows.numpy())
        np.testing.assert_allclose(rows, expected.numpy(), rtol=1e-3, atol=1e-4)
    assert run_command("verify", store, scratch=tmp_path, seconds=SECONDS).status == 0


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_store_of_encoded_rows_alone_gets_features(trunk: Path, tmp_path: Path) -> None:
    """The command says which rows it reads; damage is repaired, and found by verify before."""
    for split, count in (("train", 20), ("val", 10)):
        source = make_folder(tmp_path / split, count, bad=1)
        prepare_inline(
            source, str(tmp_path / "store"), split=split, sizes=(), encoded=("jpeg:40@90",)
        )
    store = tmp_path / "store"
    words = ("features", store, "--trunk", trunk, "--mirrored")
    done = run(*words, scratch=tmp_path)
    assert done.status == 0, done.err
    assert "train: no stored squares, so that --encoded jpeg:40@90 is read" in done.out
    (name,) = features.names(open_objects(str(store)))
    complete = promised(store)
    shard = layout.FEATURES.shard(name, "train", "mirrored", 1)
    damage(store, shard, "flip", np.random.default_rng(0))
    assert run_command("verify", store, scratch=tmp_path, seconds=SECONDS).status == 1
    explicit = run(*words, "--encoded", "jpeg:40@90", "--repair", scratch=tmp_path)
    assert explicit.status == 0, explicit.err
    assert "no stored squares" not in explicit.out
    assert promised(store) == complete
    assert run_command("verify", store, scratch=tmp_path, seconds=SECONDS).status == 0
    told = run_command("info", store, scratch=tmp_path, seconds=SECONDS)
    assert "jpeg40@90 at 32 px, centre crop of 1 of the short side" in told.out


def test_squares_and_encoded_rows_exclude_each_other() -> None:
    """An encoding that does not exist is refused by the name of the option."""
    for choices, says in (
        ({"encoded": "jpeg:0@90"}, "--encoded: encoding is 'jpeg:0@90'"),
        ({"encoded": "original", "size": 32}, "--size is 32: it selects stored squares"),
    ):
        with pytest.raises(ValueError, match=says):
            FeaturesOptions(store="store", trunk="trunk", **choices)  # type: ignore[arg-type]
