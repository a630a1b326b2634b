"""Whatever the power takes, features are gone on with, and end as if nothing had been."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipeline.store import features, layout, records
from pipeline.store import objects as door
from pipeline.store.features import FeatureCommit, FeatureRecipe, FeaturesDone
from tests.disk import LOSSES, Disk, careless, lay_out, recording, replay
from tests.pipeline.features.small import BOTH, files, make, problems


@dataclass
class Run:
    """A run whose every operation was recorded, and what it should lead to."""

    images: Path
    trunk: Path
    name: str
    whole: dict[str, bytes]
    ops: list

    def after(self, prefix: int) -> Disk:
        """The disk at a moment, on which the images are durable."""
        left: dict[str, bytes | None] = {".": None}
        for path in sorted(self.images.rglob("*")):
            name = f"store/{path.relative_to(self.images)}"
            left[name] = None if path.is_dir() else path.read_bytes()
        left["store"] = None
        return replay(self.ops[:prefix], Disk.holding(left))


@pytest.fixture(
    params=["both at once", pytest.param("mirrored later", marks=pytest.mark.slow), "repair"]
)
def run(
    request: pytest.FixtureRequest, images: Path, trunk: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Run:  # fmt: skip
    """A run over images that are there; over such with plain features; and one that mends them."""
    before = Path(shutil.copytree(images, tmp_path / "before"))
    if request.param != "both at once":
        name = make(before, trunk, kinds=("plain",) if request.param == "mirrored later" else BOTH)
    if request.param == "repair":
        shard = before / layout.features_shard(name, "train", "mirrored", 1)
        shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    root = tmp_path / "recorded"
    shutil.copytree(before, root / "store")
    monkeypatch.setattr(door, "_durable", set())
    taken = len(list(before.rglob("*"))) + 2
    with recording(monkeypatch, root, taken) as ops:
        name = make(root / "store", trunk, kinds=BOTH, repair=request.param == "repair")
    moved = [op for op in ops if not (op[0] == "rename" and ".tmp/" in op[2])]
    return Run(before, trunk, name, files(root / "store", name), moved)


def unkept(name: str, left: dict[str, bytes | None]) -> list[str]:
    """What some record of what is left vouches for, and is not there as it was."""
    there = {file.removeprefix("store/"): data for file, data in left.items() if data is not None}
    vouched, needed = [], set()
    for file, data in there.items():
        if file.startswith(f"{layout.FEATURES}/{name}/commits/"):
            kept = features.decode(FeatureCommit, data, file)
            vouched += [*kept.arrays.values()]
            needed.add(layout.features_recipe(name))
    done = layout.features_done(name, "train")
    if done in there:
        told = features.decode(FeaturesDone, there[done], done)
        vouched += told.objects
        needed |= {layout.features_commit(name, "train", shard) for shard in range(3)}
        needed |= {
            layout.features_shard(name, "train", kind, shard)
            for kind in told.kinds
            for shard in range(3)
        }
    return [
        *sorted(needed - set(there)),
        *[
            one.name
            for one in vouched
            if one.name not in there or records.fingerprint(one.name, there[one.name]) != one
        ],
    ]


def test_what_a_record_vouches_for_is_durable_at_every_moment(run: Run) -> None:
    """With the harshest loss; but for what was damaged before, or is being made anew."""
    for prefix in range(len(run.ops) + 1):
        lost = unkept(run.name, run.after(prefix).lose("strict"))
        mended = layout.features_shard(run.name, "train", "mirrored", 1)
        assert set(lost) <= {mended}, prefix
        if lost:
            assert run.after(0).lose("strict")[f"store/{mended}"] is not None


def check_goes_on(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    for prefix in range(3, len(run.ops) + 1, step):
        for how in LOSSES:
            root = lay_out(run.after(prefix).lose(how, seed=prefix), tmp_path / f"{prefix}-{how}")
            with careless(monkeypatch):
                make(root / "store", run.trunk, kinds=BOTH, repair=True)
            assert files(root / "store", run.name) == run.whole, (prefix, how)
            assert problems(root / "store") == {}
            shutil.rmtree(root)


def test_a_run_cut_off_by_the_power_is_gone_on_with(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At some operations, whichever of the unsynced is lost."""
    check_goes_on(run, tmp_path, monkeypatch, max(1, len(run.ops) // 2))


def check_killed(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed: int) -> None:
    """Kill the run at an operation, go on, and lose the power while going on."""
    disk = run.after(killed)
    root = lay_out(disk.unharmed(), tmp_path / f"killed-{killed}")
    monkeypatch.setattr(door, "_durable", set())  # what a process knows of that dies with it
    with recording(monkeypatch, root, max(disk.data)) as ops:
        make(root / "store", run.trunk, kinds=BOTH)
    mended = layout.features_shard(run.name, "train", "mirrored", 1)
    for op in (op for op in ops if not (op[0] == "rename" and ".tmp/" in op[2])):
        disk.apply(op)
        assert set(unkept(run.name, disk.lose("strict"))) <= {mended}, (killed, op)
    left = lay_out(disk.lose("strict"), tmp_path / f"lost-{killed}")
    assert files(left / "store", run.name) == files(root / "store", run.name)
    for folder in (root, left):
        shutil.rmtree(folder)


def named(run: Run) -> list[int]:
    """The moments between a name and its sync."""
    return [place for place, op in enumerate(run.ops, 1) if op[0] in ("mkdir", "rename", "link")]


def test_a_run_killed_and_gone_on_with_is_durable_too(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the dead did not sync yet, the living does before anything relies on it."""
    moments = named(run)
    committed = [place for place in moments if "/commits/" in run.ops[place - 1][-1]]
    for killed in (committed[-1], moments[-1]):
        check_killed(run, tmp_path, monkeypatch, killed)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_run_killed_anywhere_and_gone_on_with_is_durable_too(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between any name and its sync."""
    for killed in named(run):
        check_killed(run, tmp_path, monkeypatch, killed)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_run_cut_off_by_the_power_anywhere_is_gone_on_with(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At every single operation."""
    check_goes_on(run, tmp_path, monkeypatch, 1)


def test_the_recipe_is_there_before_the_first_shard(run: Run) -> None:
    """Nothing can be told of shards without."""
    recipe = f"store/{layout.features_recipe(run.name)}"
    for prefix in range(len(run.ops) + 1):
        left = run.after(prefix).lose("strict")
        if any(name.rpartition("/")[2].startswith("c.") and run.name in name for name in left):
            data = left[recipe]
            assert data is not None
            assert features.decode(FeatureRecipe, data, recipe).name == run.name
