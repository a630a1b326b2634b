"""A store survives any power loss: it opens, a run continues it, and the result is the same."""

import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from pipeline.ingest import verify
from pipeline.store import commit, integrity, layout, local, records
from pipeline.store.fingerprint import fingerprint
from pipeline.store.open import open_objects
from tests.disk import LOSSES, Disk, lay_out, recording, replay
from tests.images import SMALL, contents, make_folder, prepare_inline
from tests.trace import operations, refused, trace

ROOT = Path(__file__).parents[3]
FIRST_SIZES, BOTH_SIZES = (8,), (8, 40)  # 40 px takes several blocks


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("images"), 6, bad=1)


@dataclass
class RecordedPrepare:
    """A recorded prepare: all its operations and the expected contents of the store."""

    source: Path
    sizes: tuple[int, ...]
    expected: dict[str, bytes]
    before: Disk
    ops: list


def prepare(source: Path, root: Path, sizes: tuple[int, ...]) -> Path:
    prepare_inline(source, str(root / "store"), sizes=sizes, serves=8, **SMALL)
    return root / "store"


@pytest.fixture(scope="module", autouse=True)
def _small_blocks() -> Iterator[None]:
    """Let a thread write some of each shard."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local, "BLOCK_BYTES", 4096)
        yield


@pytest.fixture(scope="module", params=["fresh", "a further size"])
def run(
    request: pytest.FixtureRequest, source: Path, tmp_path_factory: pytest.TempPathFactory
) -> RecordedPrepare:
    """Record a prepare into an empty folder, or into a store that has one size.

    No test changes the result.
    """
    root = tmp_path_factory.mktemp("recorded")
    before = Disk()
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "a further size":
            with recording(patch, root) as ops:
                prepare(source, root, FIRST_SIZES)
            replay(ops, before)
        with recording(patch, root, max(before.data, default=0)) as ops:
            store = prepare(source, root, BOTH_SIZES)
    return RecordedPrepare(source, BOTH_SIZES, contents(store), before, ops)


def after(run: RecordedPrepare, prefix: int) -> Disk:
    disk = Disk(*(dict(part) for part in vars(run.before).values()))
    return replay(run.ops[:prefix], disk)


def problems(store: Path) -> list[integrity.Problem]:
    objects = open_objects(str(store))
    split_records = verify.read_records(objects, "train")
    wrong = [
        problem
        for _, problem in integrity.check_objects(objects, split_records.objects)
        if problem is not None
    ]
    metadata = verify.check_planned(objects, split_records)
    return [*split_records.problems, *wrong, *verify.check_finished(split_records), *metadata]


def check_goes_on(run: RecordedPrepare, root: Path) -> None:
    store = prepare(run.source, root, run.sizes)
    assert contents(store) == run.expected
    assert problems(store) == []


def check_every(run: RecordedPrepare, tmp_path: Path, prefixes: range) -> None:
    for number, prefix in enumerate(prefixes):
        disk = after(run, prefix)
        for loss in LOSSES:
            root = lay_out(disk.lose(loss, seed=prefix), tmp_path / f"{number}-{loss}")
            check_goes_on(run, root)
            shutil.rmtree(root)


def test_a_run_can_continue_after_a_power_loss(run: RecordedPrepare, tmp_path: Path) -> None:
    """Every 48th operation is interrupted, with each kind of loss of unsynced data."""
    check_every(run, tmp_path, range(7, len(run.ops) + 1, 48))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_run_can_continue_after_a_power_loss_at_any_operation(
    run: RecordedPrepare, tmp_path: Path
) -> None:
    """Every single operation is interrupted."""
    check_every(run, tmp_path, range(len(run.ops) + 1))


def test_records_vouch_only_for_durable_objects_at_every_operation(run: RecordedPrepare) -> None:
    """Even under the harshest loss, the objects of every commit and of done.json exist."""
    disk = after(run, 0)
    for op in [None, *run.ops]:
        if op is not None:
            disk.apply(op)
        assert broken_promises(disk.lose("strict")) == [], op


def broken_promises(left: dict[str, bytes | None]) -> list[str]:
    """Return the objects that a remaining record vouches for but that are missing or changed."""
    files = {name.removeprefix("store/"): data for name, data in left.items() if data is not None}
    commits = [
        commit.decode_commit(data, name)
        for name, data in files.items()
        if name.startswith("commits/")
    ]
    vouched = [written for commit_record in commits for written in commit_record.objects]
    name = layout.done("train")
    needed = {layout.RECIPE, layout.plan("train")} if commits else set()
    if name in files:
        done = records.decode_finish_record(files[name], name)
        vouched += done.objects
        needed |= {layout.ledger("train"), layout.commit("train", 0), layout.commit("train", 1)}
    return [
        *sorted(needed - set(files)),
        *[
            written.name
            for written in vouched
            if written.name not in files
            or fingerprint(written.name, files[written.name]) != written
        ],
    ]


def check_killed(
    run: RecordedPrepare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed: int
) -> None:
    """Kill the run at an operation, continue it, and lose the power while it continues."""
    disk = after(run, killed)
    root = lay_out(disk.after_kill(), tmp_path / f"killed-{killed}")
    # A process forgets on its death what it made durable.
    monkeypatch.setattr(local, "_durable", set())
    with recording(monkeypatch, root, max(disk.data, default=0)) as ops:
        prepare(run.source, root, run.sizes)
    assert contents(root / "store") == run.expected
    for op in [None, *ops]:
        if op is not None:
            disk.apply(op)
        assert broken_promises(disk.lose("strict")) == [], op
    left = lay_out(disk.lose("strict"), tmp_path / f"lost-{killed}")
    assert contents(left / "store") == run.expected
    assert problems(left / "store") == []


def test_a_continued_run_makes_the_objects_of_a_killed_one_durable(
    run: RecordedPrepare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The continued run syncs them before anything relies on them."""
    naming_operations = [
        number for number, op in enumerate(run.ops, 1) if op[0] in ("mkdir", "rename", "link")
    ]
    for killed in naming_operations[::16]:  # between the rename and the sync of the folder
        check_killed(run, tmp_path, monkeypatch, killed)


def check_repeated_losses(
    source: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    expected_contents: dict[str, bytes],
    seed: int,
) -> None:
    """Lose the power repeatedly, at any moment and in any way, and continue each time."""
    rng = np.random.default_rng(seed)
    left: dict[str, bytes | None] = {".": None}
    for losses in range(int(rng.integers(2, 6))):
        root = lay_out(left, tmp_path / f"{seed}-{losses}")
        monkeypatch.setattr(local, "_durable", set())
        disk = Disk.holding(left)
        with recording(monkeypatch, root, max(disk.data, default=0)) as ops:
            prepare(source, root, FIRST_SIZES if losses == 0 else BOTH_SIZES)
        replay(ops[: int(rng.integers(len(ops) + 1))], disk)
        left = disk.lose(str(rng.choice(LOSSES)), seed)
        assert broken_promises(left) == []
        shutil.rmtree(root)
    store = prepare(source, lay_out(left, tmp_path / f"{seed}-end"), BOTH_SIZES)
    assert contents(store) == expected_contents
    assert problems(store) == []


@pytest.fixture(scope="module")
def expected_contents(source: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    root = tmp_path_factory.mktemp("whole")
    prepare_inline(source, str(root / "store"), sizes=BOTH_SIZES, serves=8, **SMALL)
    return contents(root / "store")


def test_a_run_finishes_after_several_power_losses(
    source: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    expected_contents: dict[str, bytes],
) -> None:
    """The losses hit the first size, and the addition of a second one."""
    for seed in range(2):
        check_repeated_losses(source, tmp_path, monkeypatch, expected_contents, seed)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_run_finishes_after_power_losses_of_many_seeds(
    source: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    expected_contents: dict[str, bytes],
) -> None:
    """A hundred seeds decide when the power fails and what is lost."""
    for seed in range(10, 110):
        check_repeated_losses(source, tmp_path, monkeypatch, expected_contents, seed)


def test_an_existing_object_is_made_durable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The writer of an object may have been killed before the sync, and others rely on it now."""
    objects = open_objects(str(tmp_path), "train-1")
    objects.begin()
    objects.put("plans/a", b"x")
    with recording(monkeypatch, tmp_path) as ops:
        assert not objects.put_new("plans/a", b"y")
    assert ops[-1] == ("sync_folder", "plans")
    with recording(monkeypatch, tmp_path) as ops:
        objects.sync("plans")
        objects.sync("nothing")
    assert ops == [("sync_folder", "plans")]


def test_recipe_and_plan_are_durable_before_the_first_shard(run: RecordedPrepare) -> None:
    """Commits are useless without them."""
    names = {f"store/{name}" for name in (layout.RECIPE, layout.plan("train"))}
    first = next(
        i for i, op in enumerate(run.ops) if op[-1] == f"store/{layout.commit('train', 0)}"
    )
    assert names <= set(after(run, first).durable)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_run_killed_at_any_operation_is_made_durable(
    run: RecordedPrepare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every single operation is interrupted."""
    for killed in range(len(run.ops) + 1):
        check_killed(run, tmp_path, monkeypatch, killed)


PREPARE = """
import sys
from pathlib import Path
from tests.images import SMALL, prepare_inline
prepare_inline(Path(sys.argv[1]), sys.argv[2], shard_rows=4, chunk_rows=2)
"""


@pytest.mark.skipif(bool(refused()), reason=refused())
def test_system_calls_sync_objects_before_their_record(source: Path, tmp_path: Path) -> None:
    """In a trace, files are synced before they get their name, folders afterwards."""
    store = tmp_path / "root" / "store"
    command = [sys.executable, "-c", PREPARE, str(source), str(store)]
    check_trace(trace(command, tmp_path, PYTHONPATH=str(ROOT)), store)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.skipif(bool(refused()), reason=refused())
def test_the_command_makes_the_same_system_calls(source: Path, tmp_path: Path) -> None:
    """Planner, workers and finish step are separate processes here."""
    store = tmp_path / "root" / "store"
    (tmp_path / "root").mkdir()
    options = "--sizes 8 16 --shard-rows 2 --chunk-rows 2 --workers 2 --max-bad 1 --no-dashboard"
    arguments = ["prepare", source, store, *options.split()]
    command = [sys.executable, "-m", "workflows", *map(str, arguments)]
    check_trace(trace(command, tmp_path, PYTHONPATH=str(ROOT)), store)


def check_trace(lines: list[str], store: Path) -> None:
    objects = open_objects(str(store))
    commits = records.load_commits(objects, records.load_plan(objects, "train"))
    vouched = {layout.commit("train", s): [w.name for w in c.objects] for s, c in commits.items()}
    done = records.load_finish_record(objects, "train")
    assert done is not None
    planned = [layout.RECIPE, layout.plan("train")]
    vouched[layout.done("train")] = [
        *planned, layout.ledger("train"), *vouched, *(written.name for written in done.objects)
    ]  # fmt: skip
    disk = Disk()
    published = set()
    for op in operations(lines, store.parent):
        if op[0] == "rename" and op[2].startswith("store/.tmp/"):
            continue  # a run's folder on its way out
        if op[0] in ("rename", "link"):
            name = op[2].removeprefix("store/")
            published.add(name)
            inode = disk.seen[op[1]]
            assert disk.synced[inode] == len(disk.data[inode]) > 0, name
            needed = [*planned, *vouched[name]] if name in vouched else []
            assert {f"store/{required}" for required in needed} <= set(disk.lose("strict")), name
        elif op[0] in ("create", "open to write"):
            in_place = not op[1].startswith("store/.tmp/")
            assert not in_place or op[1] == "store/report.html", op
        if op[0] != "open to write":
            disk.apply(op)
    assert published > set(vouched)
    assert {f"store/{name}" for name in published} <= set(disk.lose("strict"))
