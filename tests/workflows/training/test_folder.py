"""A run's folder: it goes on from what was saved last, and from nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import TesseraeError
from workflows.training.folder import KEPT, Checkpoint, RunFolder


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    """One that was begun."""
    made = RunFolder(tmp_path / "run")
    made.begin({"seed": 1, "sizes": (1, 2)}, {"versions": {"torch": "1"}})
    return made


def save(folder: RunFolder, generation: int, step: int) -> Checkpoint:
    """Save a state that says what it is."""
    found = Checkpoint(generation, step)
    folder.save(found, {"weights": torch.full((3,), step), "step": step})
    return found


def test_a_run_goes_on_from_the_newest_that_is_whole(folder: RunFolder) -> None:
    """What is torn, half or without a digest is none."""
    assert folder.claim() == (1, None)
    saved = [save(folder, 1, step) for step in (10, 20, 30)]
    assert folder.newest() == saved[-1]
    assert folder.load(saved[1])["weights"].tolist() == [20] * 3
    file = folder.path / "checkpoints" / f"{saved[2].name}.pt"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    assert folder.claim() == (2, saved[1])
    (folder.path / "checkpoints" / f"{saved[1].name}.pt").unlink()
    assert folder.newest() == saved[0]


def test_what_a_generation_that_was_cut_off_writes_counts_for_nothing(folder: RunFolder) -> None:
    """Not even if the next one has saved nothing yet; and it tidies nothing away."""
    folder.claim()
    first = save(folder, 1, 10)
    assert folder.claim() == (2, first)
    for step in (20, 30, 40, 50):
        save(folder, 1, step)  # a ghost
    assert folder.newest() == first
    assert folder.claim() == (3, first)
    second = save(folder, 3, 12)
    assert folder.claim() == (4, second)


def test_so_many_are_kept(folder: RunFolder) -> None:
    """Of all generations together."""
    folder.claim()
    save(folder, 1, 10)
    folder.claim()
    for step in range(20, 90, 10):
        save(folder, 2, step)
    names = sorted(path.stem for path in (folder.path / "checkpoints").glob("*.pt"))
    assert names == [Checkpoint(2, step).name for step in (60, 70, 80)]
    assert len(names) == KEPT


@given(
    st.lists(
        st.one_of(st.just("claim"), st.tuples(st.integers(0, 2), st.integers(1, 5))), max_size=25
    )
)
def test_the_line_never_turns_back(tmp_path_factory: pytest.TempPathFactory, does: list) -> None:
    """Whatever ghosts of the last two generations save between: the run goes on from its own."""
    folder = RunFolder(tmp_path_factory.mktemp("any") / "run")
    folder.begin({}, {})
    number, reached = folder.claim()[0], 0
    at = {number: 0}
    for what in does:
        if what == "claim":
            number, resumed = folder.claim()
            assert (0 if resumed is None else resumed.step) == reached
            at[number] = reached
        else:
            behind, further = what
            writer = max(1, number - behind)
            at[writer] += further
            save(folder, writer, at[writer])
            if writer == number:
                reached = at[writer]


def test_another_run_is_not_gone_on_with(folder: RunFolder, tmp_path: Path) -> None:
    """Nor is a folder of other files touched."""
    folder.begin({"sizes": [1, 2], "seed": 1}, {})
    with pytest.raises(TesseraeError, match="with seed 1, not 2"):
        folder.begin({"seed": 2, "sizes": (1, 2)}, {})
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("")
    with pytest.raises(TesseraeError, match="holds other files"):
        RunFolder(tmp_path / "other").begin({}, {})


def test_a_step_that_was_taken_twice_is_told_once(folder: RunFolder) -> None:
    """As the later generation took it, or not yet; a torn line is none."""
    for generation, step in ((1, 1), (1, 2), (1, 3), (2, 2), (2, 3), (1, 4)):
        folder.say({"generation": generation, "step": step, "loss": 10 * generation + step})
    with (folder.path / "metrics.jsonl").open("a") as out:
        out.write('{"generation": 2, "st')
    assert [m["loss"] for m in folder.metrics()] == [11, 22, 23]
    assert json.loads((folder.path / "options.json").read_text())["versions"] == {"torch": "1"}


@pytest.mark.parametrize("left", [(), ("space.new",), ("space.npz",), ("space.npz", "options.new")])
def test_a_beginning_that_was_broken_off_is_begun_again(
    tmp_path: Path, left: tuple[str, ...]
) -> None:
    """What else a run is given is written before its options; other files are somebody's."""
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    for name in left:
        (run / name).write_text("half")
    RunFolder(run).begin({"seed": 1}, {}, files={"space.npz": b"whole"})
    assert (run / "space.npz").read_bytes() == b"whole"
    RunFolder(run).begin({"seed": 1}, {}, files={"space.npz": b"other"})
    assert (run / "space.npz").read_bytes() == b"whole"  # of a run that goes on
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.txt").write_text("mine")
    with pytest.raises(TesseraeError, match="holds other files"):
        RunFolder(other).begin({"seed": 1}, {}, files={"space.npz": b"whole"})
