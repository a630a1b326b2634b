"""Tests of the run folder: a run resumes its newest valid checkpoint and nothing else."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Mapping
from io import FileIO
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline import filesystem
from pipeline.errors import TesseraeError
from workflows.training import writing
from workflows.training.errors import DiskFullError
from workflows.training.run_folder import MAX_CHECKPOINTS, Checkpoint, RunFolder


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    """Return a run that was begun."""
    run = RunFolder(tmp_path / "run")
    run.create_or_continue({"seed": 1, "sizes": (1, 2)}, {"versions": {"torch": "1"}})
    return run


def save(folder: RunFolder, generation: int, step: int) -> Checkpoint:
    """Save a state that identifies its checkpoint."""
    checkpoint = Checkpoint(generation, step)
    state = {"weights": torch.full((3,), step), "step": step}
    folder.save(checkpoint, {"stage": state}, step=step)
    return checkpoint


def test_a_run_resumes_its_newest_intact_checkpoint(folder: RunFolder) -> None:
    """A damaged checkpoint, or one without its files, is not resumed."""
    assert folder.claim() == (1, None)
    saved = [save(folder, 1, step) for step in (10, 20, 30)]
    assert folder.newest_checkpoint() == saved[-1]
    assert folder.load(saved[1])["stage"]["weights"].tolist() == [20] * 3
    file = folder.path / "checkpoints" / f"{saved[2].name}.pt"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    assert folder.claim() == (2, saved[1])
    (folder.path / "checkpoints" / f"{saved[1].name}.pt").unlink()
    assert folder.newest_checkpoint() == saved[0]


def test_a_superseded_generation_is_ignored(folder: RunFolder) -> None:
    """A superseded generation's checkpoints are ignored, and it removes none of the newer ones."""
    folder.claim()
    first = save(folder, 1, 10)
    assert folder.claim() == (2, first)
    for step in (20, 30, 40, 50):
        save(folder, 1, step)  # a superseded generation that is still running
    assert folder.newest_checkpoint() == first
    assert folder.claim() == (3, first)
    second = save(folder, 3, 12)
    assert folder.claim() == (4, second)


def test_the_newest_checkpoints_are_kept(folder: RunFolder) -> None:
    """The newest checkpoints of all generations together are kept."""
    folder.claim()
    save(folder, 1, 10)
    folder.claim()
    for step in range(20, 90, 10):
        save(folder, 2, step)
    names = sorted(path.stem for path in (folder.path / "checkpoints").glob("*.pt"))
    assert names == [Checkpoint(2, step).name for step in (60, 70, 80)]
    assert len(names) == MAX_CHECKPOINTS


@pytest.mark.slow
@pytest.mark.timeout(900)  # a thousand examples are twenty thousand synced files
@given(
    st.lists(
        st.one_of(st.just("claim"), st.tuples(st.integers(0, 2), st.integers(1, 5))), max_size=25
    )
)
def test_late_saves_never_change_the_history(
    tmp_path_factory: pytest.TempPathFactory, actions: list
) -> None:
    """Late saves of superseded generations never change what the run resumes."""
    folder = RunFolder(tmp_path_factory.mktemp("any") / "run")
    folder.create_or_continue({}, {})
    number, reached = folder.claim()[0], 0
    reached_by = {number: 0}
    for action in actions:
        if action == "claim":
            number, resumed = folder.claim()
            assert (0 if resumed is None else resumed.updates) == reached
            reached_by[number] = reached
        else:
            behind, further = action
            writer = max(1, number - behind)
            reached_by[writer] += further
            save(folder, writer, reached_by[writer])
            if writer == number:
                reached = reached_by[writer]


def test_another_run_is_refused(folder: RunFolder, tmp_path: Path) -> None:
    """Other options, or a folder with other files, are refused."""
    folder.create_or_continue({"sizes": [1, 2], "seed": 1}, {})
    with pytest.raises(TesseraeError, match=r"Pass --seed 1, or pass another folder with --run\."):
        folder.create_or_continue({"seed": 2, "sizes": (1, 2)}, {})
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("")
    with pytest.raises(TesseraeError, match="holds other files"):
        RunFolder(tmp_path / "other").create_or_continue({}, {})


def test_a_repeated_step_is_reported_once(folder: RunFolder) -> None:
    """A repeated step has the line of the later generation, and a torn line is skipped."""
    for generation, step in ((1, 1), (1, 2), (1, 3), (2, 2), (2, 3), (1, 4)):
        folder.log({"generation": generation, "step": step, "loss": 10 * generation + step})
    with (folder.path / "metrics.jsonl").open("a") as out:
        out.write('{"generation": 2, "st')
    assert [m["loss"] for m in folder.metrics()] == [11, 22, 23]
    assert json.loads((folder.path / "options.json").read_text())["versions"] == {"torch": "1"}


@pytest.mark.parametrize("left", [(), ("space.new",), ("space.npz",), ("space.npz", "options.new")])
def test_an_interrupted_beginning_is_repeated(tmp_path: Path, left: tuple[str, ...]) -> None:
    """Files of an interrupted beginning are replaced, and foreign files are refused."""
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    for name in left:
        (run / name).write_text("half")
    RunFolder(run).create_or_continue({"seed": 1}, {}, files={"space.npz": b"whole"})
    assert (run / "space.npz").read_bytes() == b"whole"
    RunFolder(run).create_or_continue({"seed": 1}, {}, files={"space.npz": b"other"})
    assert (run / "space.npz").read_bytes() == b"whole"  # a continued run keeps its file
    foreign = tmp_path / "other"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("mine")
    with pytest.raises(TesseraeError, match="holds other files"):
        RunFolder(foreign).create_or_continue({"seed": 1}, {}, files={"space.npz": b"whole"})


def test_a_checkpoint_is_durable_before_its_name_appears(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The content is synced before its name appears, and the digest is written last."""
    done: list[tuple[str, str]] = []
    fsync, replace = os.fsync, Path.replace

    def note_sync(descriptor: int) -> None:
        done.append(("sync", Path(f"/proc/self/fd/{descriptor}").readlink().name))
        fsync(descriptor)

    def note_rename(self: Path, target: Path) -> Path:
        done.append(("rename", target.name))
        return replace(self, target)

    folder.claim()
    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(Path, "replace", note_rename)
    name = save(folder, 1, 10).name
    assert done == [
        *(("sync", f"{name}.new"), ("rename", f"{name}.pt"), ("sync", "checkpoints")),
        *(("sync", f"{name}.new"), ("rename", f"{name}.json"), ("sync", "checkpoints")),
    ]


class _Full(FileIO):
    """A file on a disk with *room* bytes left, which may write a part of the data."""

    room = 0
    error = errno.ENOSPC

    def write(self, data: Any) -> int:
        fitting = bytes(data)[: max(0, _Full.room)]
        if not fitting:
            raise OSError(_Full.error, os.strerror(_Full.error))
        _Full.room -= len(fitting)
        return super().write(fitting)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (errno.ENOSPC, "are free on the disk"),
        (errno.EDQUOT, "the disk quota is used up"),
        (errno.EFBIG, "the file size limit is reached"),
    ],
)
@pytest.mark.parametrize("room", [0, 1, 700, 3_000])
def test_a_full_disk_leaves_earlier_checkpoints(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch, error: int, message: str, room: int
) -> None:
    """The error names the file, its size and a remedy, and no partial file is left."""
    folder.claim()
    intact = save(folder, 1, 10)
    before = sorted(path.name for path in (folder.path / "checkpoints").iterdir())
    monkeypatch.setattr(filesystem, "FileIO", _Full)
    monkeypatch.setattr(_Full, "room", room)
    monkeypatch.setattr(_Full, "error", error)
    state = {"weights": torch.zeros(1_000)}
    with pytest.raises(DiskFullError) as caught:
        folder.save(Checkpoint(1, 20), state, step=20)
    text = str(caught.value)
    assert message in text
    assert (
        f"cannot write {folder.path}/checkpoints/000001-000000000020.pt: it needs 4.00 kB" in text
    )
    assert "run the same command again" in text
    assert sorted(path.name for path in (folder.path / "checkpoints").iterdir()) == before
    assert folder.newest_checkpoint() == intact


def test_a_full_disk_leaves_no_partial_line(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A partial line is removed, since it would corrupt the next one."""
    folder.log({"generation": 1, "step": 1})
    monkeypatch.setattr(writing, "FileIO", _Full)
    monkeypatch.setattr(_Full, "room", 9)
    with pytest.raises(DiskFullError, match=r"cannot write .*metrics\.jsonl: it needs 29 B"):
        folder.log({"generation": 1, "step": 2})
    monkeypatch.setattr(_Full, "room", 1_000)
    folder.log({"generation": 1, "step": 3})
    assert [line["step"] for line in folder.metrics()] == [1, 3]


def test_interrupted_saves_are_removed_at_the_next_start(folder: RunFolder) -> None:
    """Files of interrupted saves are removed, and files of other names are kept."""
    folder.claim()
    intact = save(folder, 1, 10)
    checkpoints = folder.path / "checkpoints"
    torn = [checkpoints / f"{Checkpoint(1, 20).name}{ending}" for ending in (".new", ".pt")]
    foreign = [checkpoints / name for name in ("mine.pt", "notes.new", "000001-20.pt")]
    for file in (*torn, *foreign):
        file.write_bytes(b"half")
    assert folder.claim() == (2, intact)
    assert not any(file.exists() for file in torn)
    assert all(file.exists() for file in foreign)


def test_metrics_are_standard_json(folder: RunFolder) -> None:
    """NaN and infinity, which JSON lacks, are written as null."""
    folder.log({"generation": 1, "step": 1, "loss": float("nan"), "far": [1.0, float("-inf")]})

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    (line,) = (folder.path / "metrics.jsonl").read_text().splitlines()
    assert json.loads(line, parse_constant=refuse)["loss"] is None
    assert json.loads(line)["far"] == [1.0, None]


def test_a_run_goes_back_to_an_earlier_step(folder: RunFolder) -> None:
    """A run resumes a named step with other rates, and continues from there."""
    folder.claim()
    first, second = save(folder, 1, 10), save(folder, 1, 20)
    assert folder.checkpoint_steps() == [10, 20]
    with pytest.raises(TesseraeError, match="has checkpoints of steps 10, 20; 0 restarts"):
        folder.claim(from_step=15)
    changed = {"seed": 2, "sizes": (1, 2)}
    with pytest.raises(
        TesseraeError, match="started with --seed 1 and cannot continue with --seed 2"
    ):
        folder.create_or_continue(changed, {}, changeable_on_rewind=["sizes"], from_step=10)
    with pytest.raises(
        TesseraeError, match=r"Pass --seed 1, or pass --from-step N to change --seed"
    ):
        folder.create_or_continue(changed, {}, changeable_on_rewind=["seed"])
    folder.create_or_continue(changed, {}, changeable_on_rewind=["seed"], from_step=10)
    assert folder.read_options()["changed"] == [{"from_step": 10, "were": {"seed": 1}}]
    assert folder.claim(from_step=10) == (2, first)
    assert folder.checkpoint_steps() == [10]
    third = save(folder, 2, 12)
    assert folder.claim() == (3, third)
    assert folder.claim(from_step=0) == (4, None)
    assert folder.claim() == (5, None)
    assert second != third


def test_checkpoints_of_earlier_versions_have_steps(folder: RunFolder) -> None:
    """A step that an earlier version did not record is read from the state."""
    folder.claim()
    first = save(folder, 1, 10)
    file = folder.path / "checkpoints" / f"{first.name}.json"
    record = json.loads(file.read_text())
    del record["step"]
    file.write_text(json.dumps(record))
    assert folder.claim(from_step=10) == (2, first)


def test_options_that_earlier_versions_lacked_get_legacy_defaults(folder: RunFolder) -> None:
    """A missing option has the value of the version that began the run."""
    new = {"seed": 1, "sizes": (1, 2), "order": "random"}
    with pytest.raises(TesseraeError, match=r"without --order and cannot .* Omit --order"):
        folder.create_or_continue(new, {})

    def complete(values: Mapping[str, Any]) -> dict[str, Any]:
        return {"order": "random", **values}

    folder.check_options(new, complete=complete)
    folder.create_or_continue(new, {}, complete=complete)
    assert folder.read_options()["options"]["order"] == "random"
    with pytest.raises(
        TesseraeError, match="with --order random and cannot continue with --order w"
    ):
        folder.check_options({**new, "order": "windowed"}, complete=complete)


def test_the_error_names_the_option_that_was_typed(folder: RunFolder) -> None:
    """The error names the changed objective, not the rates that follow from it."""
    from workflows.wgan.options import WganOptions

    run = RunFolder(folder.path.parent / "gan")
    run.create_or_continue(WganOptions().as_dict(), {})
    message = (
        r"started with --objective wgan and cannot continue with --objective wgan-gp\. Pass --obj"
    )
    changed = WganOptions(objective="wgan-gp").as_dict()
    with pytest.raises(TesseraeError, match=message):
        run.check_options(changed, complete=WganOptions.complete)
    with pytest.raises(TesseraeError, match=message):
        run.create_or_continue(changed, {}, complete=WganOptions.complete)
    near = WganOptions(learning_rate=1.23456789e-4).as_dict()
    with pytest.raises(
        TesseraeError, match="cannot continue with --learning-rate 0\\.000123456789"
    ):
        run.check_options(near, complete=WganOptions.complete)
    run.check_options(
        WganOptions(learning_rate=5e-5).as_dict(), complete=WganOptions.complete
    )  # the default of the objective


def test_the_error_names_stages_as_the_command_does(folder: RunFolder) -> None:
    """A run of an earlier version recorded the module of its stage; the error has the name."""
    run = RunFolder(folder.path.parent / "other")
    run.create_or_continue({"stage": "workflows.wgan.stage:Wgan", "features": None}, {})
    with pytest.raises(
        TesseraeError, match="holds a run of the stage wgan, not of the stage devise"
    ):
        run.check_options({"stage": "devise"})
    with pytest.raises(
        TesseraeError, match="holds a run with the features none, not with the features f"
    ):
        run.check_options({"features": "f"})


def test_lines_are_not_appended_through_a_link(tmp_path: Path) -> None:
    """Metrics are not appended through a link to another file."""
    writing.append(tmp_path / "metrics.jsonl", b"one\n")
    writing.append(tmp_path / "metrics.jsonl", b"two\n")
    assert (tmp_path / "metrics.jsonl").read_bytes() == b"one\ntwo\n"
    (tmp_path / "keys").write_text("mine")
    (tmp_path / "other.jsonl").symlink_to(tmp_path / "keys")
    with pytest.raises(TesseraeError, match=r"other\.jsonl is a symbolic link"):
        writing.append(tmp_path / "other.jsonl", b"x")
    assert (tmp_path / "keys").read_text() == "mine"
