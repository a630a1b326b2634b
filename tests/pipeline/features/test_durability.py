"""Features survive any power loss: a run continues, and the result is the same."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipeline.store import derived, layout, local
from pipeline.store.features import FeatureCommit, FeatureFinishRecord, FeatureRecipe
from pipeline.store.fingerprint import fingerprint
from tests.disk import LOSSES, Disk, lay_out, recording, replay
from tests.pipeline.features.small import BOTH, files, make, problems


@dataclass
class RecordedRun:
    """A recorded run: all its operations and the expected features."""

    images: Path
    trunk: Path
    name: str
    expected: dict[str, bytes]
    ops: list

    def after(self, prefix: int) -> Disk:
        """Return the disk after *prefix* operations; the images are durable on it."""
        left: dict[str, bytes | None] = {".": None}
        for path in sorted(self.images.rglob("*")):
            name = f"store/{path.relative_to(self.images)}"
            left[name] = None if path.is_dir() else path.read_bytes()
        left["store"] = None
        return replay(self.ops[:prefix], Disk.holding(left))

    def states(self) -> Iterator[Disk]:
        """Yield the disk, which must not be changed, after each number of operations from 0 on."""
        disk = self.after(0)
        yield disk
        for op in self.ops:
            disk.apply(op)
            yield disk


@pytest.fixture(
    scope="module",
    params=["both at once", pytest.param("mirrored later", marks=pytest.mark.slow), "repair"],
)
def run(
    request: pytest.FixtureRequest,
    images: Path,
    trunk: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> RecordedRun:
    """Record a run over images alone, over plain features, or as a repair; no test changes it."""
    folder = tmp_path_factory.mktemp("run")
    before = Path(shutil.copytree(images, folder / "before"))
    if request.param != "both at once":
        name = make(before, trunk, kinds=("plain",) if request.param == "mirrored later" else BOTH)
    if request.param == "repair":
        shard = before / layout.FEATURES.shard(name, "train", "mirrored", 1)
        shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    root = folder / "recorded"
    shutil.copytree(before, root / "store")
    first_inode = len(list(before.rglob("*"))) + 2
    with pytest.MonkeyPatch.context() as patch, recording(patch, root, first_inode) as ops:
        patch.setattr(local, "_durable", set())
        name = make(root / "store", trunk, kinds=BOTH, repair=request.param == "repair")
    moved = [op for op in ops if not (op[0] == "rename" and ".tmp/" in op[2])]
    return RecordedRun(before, trunk, name, files(root / "store", name), moved)


def broken_promises(name: str, left: dict[str, bytes | None]) -> list[str]:
    """Return the objects that a remaining record vouches for but that are missing or changed."""
    files_left = {
        file.removeprefix("store/"): data for file, data in left.items() if data is not None
    }
    vouched, needed = [], set()
    for file, data in files_left.items():
        if file.startswith(f"{layout.FEATURES.folder}/{name}/commits/"):
            commit = derived.decode_document(FeatureCommit, data, file)
            vouched += [*commit.arrays.values()]
            needed.add(layout.FEATURES.recipe(name))
    done = layout.FEATURES.done(name, "train")
    if done in files_left:
        record = derived.decode_document(FeatureFinishRecord, files_left[done], done)
        vouched += record.objects
        needed |= {layout.FEATURES.commit(name, "train", shard) for shard in range(3)}
        needed |= {
            layout.FEATURES.shard(name, "train", kind, shard)
            for kind in record.kinds
            for shard in range(3)
        }
    return [
        *sorted(needed - set(files_left)),
        *[
            written.name
            for written in vouched
            if written.name not in files_left
            or fingerprint(written.name, files_left[written.name]) != written
        ],
    ]


def test_records_vouch_only_for_durable_objects_at_every_operation(run: RecordedRun) -> None:
    """The loss is the harshest; only the damaged object of a repair may be missing."""
    for prefix, disk in enumerate(run.states()):
        lost = broken_promises(run.name, disk.lose("strict"))
        repaired = layout.FEATURES.shard(run.name, "train", "mirrored", 1)
        assert set(lost) <= {repaired}, prefix
        if lost:
            assert run.after(0).lose("strict")[f"store/{repaired}"] is not None


def check_goes_on(run: RecordedRun, tmp_path: Path, step: int) -> None:
    for prefix in range(3, len(run.ops) + 1, step):
        for loss in LOSSES:
            root = lay_out(run.after(prefix).lose(loss, seed=prefix), tmp_path / f"{prefix}-{loss}")
            make(root / "store", run.trunk, kinds=BOTH, repair=True)
            assert files(root / "store", run.name) == run.expected, (prefix, loss)
            assert problems(root / "store") == {}
            shutil.rmtree(root)


def test_a_run_can_continue_after_a_power_loss(run: RecordedRun, tmp_path: Path) -> None:
    """A few operations are interrupted, with each kind of loss of unsynced data."""
    check_goes_on(run, tmp_path, max(1, len(run.ops) // 2))


def check_killed(
    run: RecordedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed: int
) -> None:
    """Kill the run at an operation, continue it, and lose the power while it continues."""
    disk = run.after(killed)
    root = lay_out(disk.after_kill(), tmp_path / f"killed-{killed}")
    monkeypatch.setattr(local, "_durable", set())  # a process forgets on its death what it synced
    with recording(monkeypatch, root, max(disk.data)) as ops:
        make(root / "store", run.trunk, kinds=BOTH)
    repaired = layout.FEATURES.shard(run.name, "train", "mirrored", 1)
    for op in (op for op in ops if not (op[0] == "rename" and ".tmp/" in op[2])):
        disk.apply(op)
        assert set(broken_promises(run.name, disk.lose("strict"))) <= {repaired}, (killed, op)
    left = lay_out(disk.lose("strict"), tmp_path / f"lost-{killed}")
    assert files(left / "store", run.name) == files(root / "store", run.name)
    for folder in (root, left):
        shutil.rmtree(folder)


def naming_operations(run: RecordedRun) -> list[int]:
    """Return the numbers of the operations that give a file or folder its name."""
    return [number for number, op in enumerate(run.ops, 1) if op[0] in ("mkdir", "rename", "link")]


def test_a_continued_run_makes_the_objects_of_a_killed_one_durable(
    run: RecordedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The continued run syncs them before anything relies on them."""
    moments = naming_operations(run)
    committed = [number for number in moments if "/commits/" in run.ops[number - 1][-1]]
    for killed in (committed[-1], moments[-1]):
        check_killed(run, tmp_path, monkeypatch, killed)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_run_killed_at_any_operation_is_made_durable(
    run: RecordedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run is killed between every rename and its sync."""
    for killed in naming_operations(run):
        check_killed(run, tmp_path, monkeypatch, killed)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_run_can_continue_after_a_power_loss_at_any_operation(
    run: RecordedRun, tmp_path: Path
) -> None:
    """Every single operation is interrupted."""
    check_goes_on(run, tmp_path, 1)


def test_the_recipe_is_durable_before_the_first_shard(run: RecordedRun) -> None:
    """Shards are useless without it."""
    recipe = f"store/{layout.FEATURES.recipe(run.name)}"
    for disk in run.states():
        left = disk.lose("strict")
        if any(name.rpartition("/")[2].startswith("c.") and run.name in name for name in left):
            data = left[recipe]
            assert data is not None
            assert derived.decode_document(FeatureRecipe, data, recipe).name == run.name
