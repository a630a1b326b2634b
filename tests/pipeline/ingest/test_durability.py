"""Whatever the power takes, a store opens, is gone on with, and ends as if nothing had been."""

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from pipeline.ingest import verify
from pipeline.store import commit, layout, records
from pipeline.store import objects as door
from pipeline.store.objects import open_objects
from tests.disk import LOSSES, Disk, careless, lay_out, recording, replay
from tests.pictures import contents, make_folder, prepare_inline
from tests.trace import operations, refused, trace

ROOT = Path(__file__).parents[3]
CHOICES = {"shard_rows": 4, "chunk_rows": 2}
ONE, TWO = (8,), (8, 40)  # the second takes several blocks


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("images"), 6, bad=1)


@dataclass
class Run:
    """A prepare whose every operation was recorded, and what it should lead to."""

    source: Path
    sizes: tuple[int, ...]
    whole: dict[str, bytes]
    before: Disk
    ops: list


def prepare(source: Path, root: Path, sizes: tuple[int, ...]) -> Path:
    prepare_inline(source, str(root / "store"), sizes=sizes, serves=8, **CHOICES)
    return root / "store"


@pytest.fixture(params=["fresh", "a further size"])
def run(
    request: pytest.FixtureRequest,
    source: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Run:
    """One whole prepare of an empty folder, or of a store that has a size."""
    root = tmp_path / "recorded"
    root.mkdir()
    monkeypatch.setattr(door, "BLOCK_BYTES", 4096)  # so that a thread writes some of it
    before = Disk()
    if request.param == "a further size":
        with recording(monkeypatch, root) as ops:
            prepare(source, root, ONE)
        replay(ops, before)
    with recording(monkeypatch, root, max(before.data, default=0)) as ops:
        store = prepare(source, root, TWO)
    return Run(source, TWO, contents(store), before, ops)


def after(run: Run, prefix: int) -> Disk:
    disk = Disk(*(dict(part) for part in vars(run.before).values()))
    return replay(run.ops[:prefix], disk)


def problems(store: Path) -> list[verify.Problem]:
    objects = open_objects(str(store))
    found = verify.read_records(objects, "train")
    wrong = [problem for _, problem in verify.check_objects(objects, found) if problem is not None]
    metadata = verify.check_planned(objects, found)
    return [*found.problems, *wrong, *verify.check_whole(found), *metadata]


def check_goes_on(run: Run, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with careless(monkeypatch):
        store = prepare(run.source, root, run.sizes)
    assert contents(store) == run.whole
    assert problems(store) == []


def check_every(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prefixes: range) -> None:
    for place, prefix in enumerate(prefixes):
        disk = after(run, prefix)
        for how in LOSSES:
            root = lay_out(disk.lose(how, seed=prefix), tmp_path / f"{place}-{how}")
            check_goes_on(run, root, monkeypatch)
            shutil.rmtree(root)


def test_a_run_cut_off_by_the_power_is_gone_on_with(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At one operation in 48, whichever of the unsynced is lost."""
    check_every(run, tmp_path, monkeypatch, range(7, len(run.ops) + 1, 48))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_run_cut_off_by_the_power_anywhere_is_gone_on_with(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At every single operation."""
    check_every(run, tmp_path, monkeypatch, range(len(run.ops) + 1))


def test_what_a_record_vouches_for_is_durable_at_every_moment(run: Run) -> None:
    """With the harshest loss, every commit there is finds its objects, and done finds all."""
    for prefix in range(len(run.ops) + 1):
        assert unkept(after(run, prefix).lose("strict")) == []


def unkept(left: dict[str, bytes | None]) -> list[str]:
    """What some record of what is left vouches for, and is not there as it was."""
    files = {name.removeprefix("store/"): data for name, data in left.items() if data is not None}
    commits = [
        commit.decode(data, name) for name, data in files.items() if name.startswith("commits/")
    ]
    vouched = [kept for one in commits for kept in one.objects]
    name = layout.done("train")
    needed = {layout.RECIPE, layout.plan("train")} if commits else set()
    if name in files:
        done = records.decode_done(files[name], name)
        vouched += done.objects
        needed |= {layout.ledger("train"), layout.commit("train", 0), layout.commit("train", 1)}
    return [
        *sorted(needed - set(files)),
        *[
            kept.name
            for kept in vouched
            if kept.name not in files or records.fingerprint(kept.name, files[kept.name]) != kept
        ],
    ]


def check_killed(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed: int) -> None:
    """Kill the run at an operation, go on, and lose the power while going on."""
    disk = after(run, killed)
    root = lay_out(disk.unharmed(), tmp_path / f"killed-{killed}")
    # What a process knows to be durable dies with it.
    monkeypatch.setattr(door, "_durable", set())
    with recording(monkeypatch, root, max(disk.data, default=0)) as ops:
        prepare(run.source, root, run.sizes)
    assert contents(root / "store") == run.whole
    for op in [None, *ops]:
        if op is not None:
            disk.apply(op)
        assert unkept(disk.lose("strict")) == [], op
    left = lay_out(disk.lose("strict"), tmp_path / f"lost-{killed}")
    assert contents(left / "store") == run.whole
    assert problems(left / "store") == []


def test_a_run_killed_and_gone_on_with_is_durable_too(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the dead did not sync yet, the living does before anything relies on it."""
    named = [place for place, op in enumerate(run.ops, 1) if op[0] in ("mkdir", "rename", "link")]
    for killed in named[::16]:  # in the moment between a name and its sync
        check_killed(run, tmp_path, monkeypatch, killed)


def check_unlucky(
    source: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    whole: dict[str, bytes],
    seed: int,
) -> None:
    """Lose the power again and again, at any moment and in any way, and go on each time."""
    rng = np.random.default_rng(seed)
    left: dict[str, bytes | None] = {".": None}
    for losses in range(int(rng.integers(2, 6))):
        root = lay_out(left, tmp_path / f"{seed}-{losses}")
        monkeypatch.setattr(door, "_durable", set())
        disk = Disk.holding(left)
        with recording(monkeypatch, root, max(disk.data, default=0)) as ops:
            prepare(source, root, ONE if losses == 0 else TWO)
        replay(ops[: int(rng.integers(len(ops) + 1))], disk)
        left = disk.lose(str(rng.choice(LOSSES)), seed)
        assert unkept(left) == []
        shutil.rmtree(root)
    with careless(monkeypatch):
        store = prepare(source, lay_out(left, tmp_path / f"{seed}-end"), TWO)
    assert contents(store) == whole
    assert problems(store) == []


@pytest.fixture(scope="module")
def whole(source: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    root = tmp_path_factory.mktemp("whole")
    prepare_inline(source, str(root / "store"), sizes=TWO, serves=8, **CHOICES)
    return contents(root / "store")


def test_a_machine_that_loses_its_power_several_times_gets_there(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: dict[str, bytes]
) -> None:
    """In its first size, and while the second is added."""
    for seed in range(2):
        check_unlucky(source, tmp_path, monkeypatch, whole, seed)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_machine_that_loses_its_power_all_the_time_gets_there(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: dict[str, bytes]
) -> None:
    """A hundred times over."""
    for seed in range(10, 110):
        check_unlucky(source, tmp_path, monkeypatch, whole, seed)


def test_an_object_that_was_there_already_is_made_durable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever made it may have been killed right after: it is relied on from here on."""
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


def test_recipe_and_plan_are_durable_before_the_first_shard(run: Run) -> None:
    """Commits mean nothing without them."""
    names = {f"store/{name}" for name in (layout.RECIPE, layout.plan("train"))}
    first = next(
        i for i, op in enumerate(run.ops) if op[-1] == f"store/{layout.commit('train', 0)}"
    )
    assert names <= set(after(run, first).durable)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_run_killed_anywhere_and_gone_on_with_is_durable_too(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At every single operation."""
    for killed in range(len(run.ops) + 1):
        check_killed(run, tmp_path, monkeypatch, killed)


PREPARE = """
import sys
from pathlib import Path
from tests.pictures import prepare_inline
prepare_inline(Path(sys.argv[1]), sys.argv[2], shard_rows=4, chunk_rows=2)
"""


@pytest.mark.skipif(bool(refused()), reason=refused())
def test_the_system_was_asked_to_make_all_durable_before_a_record_says_so(
    source: Path, tmp_path: Path
) -> None:
    """By a trace of its calls: files synced before they get their name, folders after."""
    store = tmp_path / "root" / "store"
    command = [sys.executable, "-c", PREPARE, str(source), str(store)]
    check_trace(trace(command, tmp_path, PYTHONPATH=str(ROOT)), store)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.skipif(bool(refused()), reason=refused())
def test_the_whole_command_asks_for_the_same(source: Path, tmp_path: Path) -> None:
    """Planner, workers and finish step are processes of their own."""
    store = tmp_path / "root" / "store"
    (tmp_path / "root").mkdir()
    options = "--sizes 8 16 --shard-rows 2 --chunk-rows 2 --workers 2 --max-bad 1 --no-dashboard"
    words = ["prepare", source, store, *options.split()]
    command = [sys.executable, "-m", "workflows", *map(str, words)]
    check_trace(trace(command, tmp_path, PYTHONPATH=str(ROOT)), store)


def check_trace(lines: list[str], store: Path) -> None:
    objects = open_objects(str(store))
    commits = records.load_commits(objects, records.load_plan(objects, "train"))
    vouched = {layout.commit("train", s): [w.name for w in c.objects] for s, c in commits.items()}
    done = records.load_done(objects, "train")
    assert done is not None
    planned = [layout.RECIPE, layout.plan("train")]
    vouched[layout.done("train")] = [
        *planned, layout.ledger("train"), *vouched, *(kept.name for kept in done.objects)
    ]  # fmt: skip
    disk = Disk()
    named = set()
    for op in operations(lines, store.parent):
        if op[0] == "rename" and op[2].startswith("store/.tmp/"):
            continue  # a run's folder on its way out
        if op[0] in ("rename", "link"):
            name = op[2].removeprefix("store/")
            named.add(name)
            inode = disk.seen[op[1]]
            assert disk.synced[inode] == len(disk.data[inode]) > 0, name
            needed = [*planned, *vouched[name]] if name in vouched else []
            assert {f"store/{one}" for one in needed} <= set(disk.lose("strict")), name
        elif op[0] in ("create", "open to write"):
            in_place = not op[1].startswith("store/.tmp/")
            assert not in_place or op[1] == "store/report.html", op
        if op[0] != "open to write":
            disk.apply(op)
    assert named > set(vouched)
    assert {f"store/{name}" for name in named} <= set(disk.lose("strict"))
