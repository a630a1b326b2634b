"""The rank of a process under each launcher: disjoint parts of the rows, or an error."""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import distributed

from pipeline.errors import RankError, StoreError, TesseraeError
from pipeline.features.loader import FeatureLoader
from pipeline.loader import Loader
from pipeline.loader.distributed import count_ranks_on_host, current_placement, explicit_placement
from tests.commands import ROOT, free_port
from tests.images import make_folder, prepare_inline

NUM_ROWS = 61
READABLE = NUM_ROWS - 3

Environment = dict[str, str]


def torchrun(rank: int, world: int) -> Environment:
    return {"RANK": f"{rank}", "WORLD_SIZE": f"{world}", "LOCAL_RANK": f"{rank}"}


def accelerate(rank: int, world: int) -> Environment:
    return {**torchrun(rank, world), "ACCELERATE_USE_CPU": "true"}


def lightning(rank: int, world: int) -> Environment:
    """Return the environment of Lightning's child processes on one node, without RANK."""
    return {"LOCAL_RANK": f"{rank}", "NODE_RANK": "0", "WORLD_SIZE": f"{world}"}


def mpirun(rank: int, world: int) -> Environment:
    return {"OMPI_COMM_WORLD_RANK": f"{rank}", "OMPI_COMM_WORLD_SIZE": f"{world}"}


def mpirun_in_slurm(rank: int, world: int) -> Environment:
    """Return the environment of ranks that inherit the variables of a step of their daemons."""
    node = {"SLURM_PROCID": f"{rank // 4}", "SLURM_STEP_NUM_TASKS": f"{-(-world // 4)}"}
    return {**mpirun(rank, world), **node}


def mvapich(rank: int, world: int) -> Environment:
    return {"MV2_COMM_WORLD_RANK": f"{rank}", "MV2_COMM_WORLD_SIZE": f"{world}"}


def mpich(rank: int, world: int) -> Environment:
    return {"PMI_RANK": f"{rank}", "PMI_SIZE": f"{world}"}


def srun(rank: int, world: int) -> Environment:
    """Return the environment of a step with fewer tasks than its job."""
    return {
        "SLURM_PROCID": f"{rank}",
        "SLURM_STEP_NUM_TASKS": f"{world}",
        "SLURM_NTASKS": f"{world + 1}",
        "SLURM_STEP_ID": "0",
    }


def srun_without_step_tasks(rank: int, world: int) -> Environment:
    return {"SLURM_PROCID": f"{rank}", "SLURM_NTASKS": f"{world}", "SLURM_STEP_ID": "3"}


def torchrun_in_srun(rank: int, world: int) -> Environment:
    """Return the environment of a torchrun that srun has started once per node."""
    return {**torchrun(rank, world), "SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1"}


def world_size_beside_srun(rank: int, world: int) -> Environment:
    """Return the environment of a job script that exports WORLD_SIZE, but not RANK."""
    return {**srun(rank, world), "WORLD_SIZE": f"{world}", "MASTER_ADDR": "node1"}


LAUNCHERS: dict[str, Callable[[int, int], Environment]] = {
    launcher.__name__: launcher
    for launcher in (
        torchrun, accelerate, lightning, mpirun, mpirun_in_slurm, mvapich, mpich, srun,
        srun_without_step_tasks, torchrun_in_srun, world_size_beside_srun,
    )
}  # fmt: skip

NAMES = {name for launcher in LAUNCHERS.values() for name in launcher(0, 1)} | {
    "LOCAL_WORLD_SIZE", "SLURM_STEPID", "SLURM_STEP_TASKS_PER_NODE",
}  # fmt: skip


@contextmanager
def environment(variables: Environment) -> Iterator[None]:
    """Set exactly these variables of launchers inside the block."""
    with pytest.MonkeyPatch.context() as patch:
        for name in NAMES:
            patch.delenv(name, raising=False)
        for name, value in variables.items():
            patch.setenv(name, value)
        yield


@pytest.fixture(autouse=True)
def _nobody_said_anything() -> Iterator[None]:
    with environment({}):
        yield


@contextmanager
def group_of(rank: int, world: int) -> Iterator[None]:
    """Make this process a rank of a process group without other processes, inside the block."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    distributed.init_process_group("fake", store=FakeStore(), rank=rank, world_size=world)
    try:
        yield
    finally:
        distributed.destroy_process_group()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepare a store of 61 images, 3 of them broken."""
    folder = tmp_path_factory.mktemp("ranks")
    source = make_folder(folder / "train", NUM_ROWS, bad=3)
    prepare_inline(source, str(folder / "store"), sizes=(8,), shard_rows=16, chunk_rows=4)
    return folder / "store"


# --- who is who -----------------------------------------------------------------------------------


def test_a_process_without_a_launcher_is_the_only_rank() -> None:
    """The process is rank 0 of 1."""
    assert current_placement()[:2] == (0, 1)
    assert count_ranks_on_host(1) == 1


@pytest.mark.parametrize("launcher", sorted(LAUNCHERS))
@pytest.mark.parametrize(("rank", "world"), [(2, 5), (0, 5), (4, 5), (0, 1), (1, 2)])
def test_rank_and_world_are_those_of_the_launcher(launcher: str, rank: int, world: int) -> None:
    """Arguments take precedence over each launcher."""
    with environment(LAUNCHERS[launcher](rank, world)):
        assert current_placement()[:2] == (rank, world)
        loader = Loader("nowhere", rank=1, world=3)
        assert (loader.rank, loader.world) == (1, 3)


def test_the_innermost_launcher_decides() -> None:
    """Either srun or mpirun may start torchrun once per node, and not the reverse."""
    variables = {**srun(1, 2), **torchrun(5, 8)}
    with environment(variables):
        assert current_placement()[:2] == (5, 8)
    with environment({**torchrun(5, 8), "SLURM_PROCID": "1"}):  # what else srun said is lost
        assert current_placement()[:2] == (5, 8)
    with environment({**mpirun(1, 2), **torchrun(5, 8)}), group_of(3, 16):
        assert current_placement()[:2] == (3, 16)


def test_a_process_group_has_priority() -> None:
    """Spawned ranks have no environment of their own, and an incomplete one is ignored."""
    with group_of(2, 4):
        assert current_placement()[:2] == (2, 4)
        loader = Loader("nowhere")
        assert (loader.rank, loader.world) == (2, 4)
        with environment({"WORLD_SIZE": "2"}):  # of nodes, in some scripts
            assert current_placement()[:2] == (2, 4)
    assert (loader.rank, loader.world) == (0, 1)


@pytest.mark.parametrize(
    "variables",
    [
        {"SLURM_PROCID": "0", "SLURM_NTASKS": "8"},
        {"SLURM_PROCID": "0", "SLURM_NTASKS": "8", "SLURM_STEP_ID": "4294967291"},
        {"SLURM_NTASKS": "8"},
        {"SLURM_PROCID": "0", "SLURM_NTASKS": "8", "SLURM_STEP_NUM_TASKS": "1"},
    ],
)
def test_a_batch_script_of_slurm_is_not_a_rank(variables: Environment) -> None:
    """Slurm sets the number of tasks, but a process of the script itself reads every row."""
    with environment(variables):
        assert current_placement()[:2] == (0, 1)


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"RANK": "2"}, "RANK is 2 and WORLD_SIZE is not set"),
        ({"RANK": "0"}, "RANK is 0 and WORLD_SIZE is not set"),
        ({"WORLD_SIZE": "4"}, "WORLD_SIZE is 4 and RANK is not set"),
        ({"WORLD_SIZE": "4", "LOCAL_RANK": "1"}, "WORLD_SIZE is 4 and RANK is not set"),
        ({"WORLD_SIZE": "4", "LOCAL_RANK": "1", "NODE_RANK": "1"}, "RANK is not set"),
        ({"WORLD_SIZE": "4", **srun(1, 2)}, "WORLD_SIZE is 4 and RANK is not set"),
        ({"PMI_RANK": "2"}, "PMI_RANK is 2 and PMI_SIZE is not set"),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, "OMPI_COMM_WORLD_SIZE is 2 and OMPI_COMM_WORLD_RANK is"),
        ({"SLURM_PROCID": "3", "SLURM_NTASKS": "8"}, "SLURM_PROCID is 3 and SLURM_STEP_NUM_TASKS"),
        ({"RANK": "a", "WORLD_SIZE": "2"}, "RANK is 'a': expected a whole number"),
        ({"RANK": "2", "WORLD_SIZE": "2"}, "RANK and WORLD_SIZE set rank 2 of a world of 2"),
        ({"RANK": "-1", "WORLD_SIZE": "2"}, "set rank -1 of a world of 2"),
        (
            {**torchrun(0, 1), **mpirun(1, 2)},
            "this is rank 0 of 1 by RANK and WORLD_SIZE, but rank 1 of 2 by OMPI_COMM_WORLD_RANK"
            " and OMPI_COMM_WORLD_SIZE: ranks would read the same rows",
        ),
        (
            {**mpirun(0, 2), **srun(1, 4)},
            "but rank 1 of 4 by SLURM_PROCID and SLURM_STEP_NUM_TASKS",
        ),
    ],
)
def test_incomplete_and_contradictory_ranks_are_errors(
    store: Path, variables: Environment, message: str
) -> None:
    """The error has variables, values and cure; the loader's length is still available."""
    with environment(variables):
        loader = Loader(store, size=8, batch_size=10)
        assert len(loader) == 5
        with pytest.raises(RankError, match=message) as raised:
            next(iter(loader))
        assert str(raised.value).endswith("Pass rank= and world= to the loader.")
        assert next(iter(Loader(store, size=8, batch_size=10, rank=0, world=2)))


def test_a_process_group_smaller_than_the_launchers_world_is_an_error() -> None:
    """Several such groups would read the same rows."""
    with environment(torchrun(1, 4)), group_of(0, 1), pytest.raises(RankError) as raised:
        current_placement()
    assert "this is rank 0 of 1 by torch.distributed, but rank 1 of 4 by RANK and WORLD" in str(
        raised.value
    )


@pytest.mark.parametrize(
    ("text", "local_ranks"),
    [("4", 4), ("4(x2)", 4), ("3,4(x2)", 4), ("2(x3),1", 2), ("16", 8), ("none", 1)],
)
@pytest.mark.parametrize("name", ["SLURM_STEP_TASKS_PER_NODE", "LOCAL_WORLD_SIZE"])
def test_ranks_per_machine_are_parsed_in_slurms_syntax(
    name: str, text: str, local_ranks: int
) -> None:
    """The number is at most the world size."""
    with environment({name: text}):
        assert count_ranks_on_host(8) == local_ranks


@pytest.mark.parametrize(("rank", "world"), [(0, None), (None, 2), (2, 2), (-1, 2), (0, 0)])
def test_an_invalid_rank_is_refused(rank: int | None, world: int | None) -> None:
    """The error contains rank and world."""
    with pytest.raises(ValueError, match=f"rank is {rank}"):
        explicit_placement(rank, world)


# --- parts of the rows ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "launcher",
    [
        pytest.param(
            name, marks=[] if name in ("torchrun", "process group") else [pytest.mark.slow]
        )
        for name in (*sorted(LAUNCHERS), "process group")
    ],
)
@settings(max_examples=8)
@given(
    world=st.integers(1, 9),
    batch_size=st.integers(1, 70),
    drop_last=st.booleans(),
    epoch=st.integers(0, 3),
)
def test_ranks_have_disjoint_parts_of_every_row_or_an_error(
    store: Path, launcher: str, world: int, batch_size: int, drop_last: bool, epoch: int
) -> None:
    """All ranks get the same number of batches, or the same error."""
    maker = Loader(store, size=8, batch_size=batch_size, drop_last=drop_last)
    text = pickle.dumps(maker)

    def part(rank: int) -> list[list[int]] | str:
        inside = (
            environment(LAUNCHERS[launcher](rank, world))
            if launcher in LAUNCHERS
            else group_of(rank, world)
        )
        with inside:
            loader = pickle.loads(text)
            loader.set_epoch(epoch)
            try:
                return [batch.rows.tolist() for batch in loader]
            except (TesseraeError, ValueError) as e:
                return str(e)

    parts = [part(rank) for rank in range(world)]
    if batch_size < world:
        assert {f"{p}"[:13] for p in parts} == {"batch_size is"}
        return
    if drop_last and batch_size > READABLE:
        assert set(map(str, parts)) == {
            f"split 'train' of {store} has {READABLE} usable rows, batch_size is {batch_size}"
            " and drop_last is True: an epoch would have no batch. Pass drop_last=False or a"
            " smaller batch_size."
        }
        return
    alone = Loader(store, size=8, batch_size=batch_size, drop_last=drop_last, rank=0, world=1)
    alone.set_epoch(epoch)
    batches = [batch.rows.tolist() for batch in alone]
    joined = [[row for rows in batch for row in rows] for batch in zip(*parts, strict=True)]
    assert joined == batches
    rows = [row for batch in batches for row in batch]
    assert len(set(rows)) == len(rows)
    assert len(rows) == (READABLE // batch_size * batch_size if drop_last else READABLE)


@settings(max_examples=min(40, settings().max_examples))
@given(
    world=st.integers(1, 8),
    extra=st.integers(0, 60),
    drop_last=st.booleans(),
    seed=st.integers(0, 9),
)
def test_weighted_losses_of_ranks_average_to_the_mean_of_the_batch(
    store: Path, world: int, extra: int, drop_last: bool, seed: int
) -> None:
    """Gradients do too, also if a rank has no rows in the last batch."""
    batch_size = min(world + extra, READABLE)
    value = torch.tensor(2.0, requires_grad=True)
    words: dict[str, Any] = {"size": 8, "batch_size": batch_size, "seed": seed}
    loaders = [
        Loader(store, **words, drop_last=drop_last, rank=rank, world=world) for rank in range(world)
    ]
    for parts in zip(*loaders, strict=True):
        rows = torch.cat([batch.rows for batch in parts]).double()
        losses = [(value * b.rows.double() * b.row_weight).sum() for b in parts]
        mean = torch.stack(losses).sum() / world
        assert torch.isfinite(torch.stack(losses)).all()
        assert float(mean.detach()) == pytest.approx(2 * float(rows.mean()))
        (gradient,) = torch.autograd.grad(mean, value)
        assert float(gradient) == pytest.approx(float(rows.mean()))
        if len(rows) >= world:
            assert min(len(batch.rows) for batch in parts) > 0


def test_the_rank_is_determined_when_an_iteration_begins(store: Path) -> None:
    """The time at which loader and iterator are created, pickled or measured does not matter."""
    loader = Loader(store, size=8, batch_size=10)
    assert len(loader) == 5
    iterator = iter(loader)
    with group_of(1, 2):
        parts = [batch.rows.tolist() for batch in iterator]
        sent = pickle.loads(pickle.dumps(loader))
        sent.set_epoch(0)
        assert [batch.rows.tolist() for batch in sent] == parts
    assert [len(rows) for rows in parts] == [5] * 5
    assert [len(batch.rows) for batch in loader] == [10] * 5


def test_a_process_group_initialised_during_an_epoch_is_an_error(store: Path) -> None:
    """Earlier batches had the rows of all ranks."""
    iterator = iter(Loader(store, size=8, batch_size=10))
    next(iterator)
    with group_of(1, 2), pytest.raises(RankError, match=r"1 of 2 by .* in the middle of an epoch"):
        next(iterator)


def test_a_batch_smaller_than_the_world_is_an_error(store: Path) -> None:
    """The error contains both numbers."""
    with environment(torchrun(0, 8)):
        loader = Loader(store, size=8, batch_size=7)
        with pytest.raises(ValueError, match=r"batch_size is 7: .* for each of 8 ranks"):
            next(iter(loader))


def test_a_feature_loader_determines_its_rank_in_the_same_way() -> None:
    """The same sources are used in the same order."""
    with environment(mpirun(2, 5)):
        loader = FeatureLoader("nowhere", "none")
        assert (loader.rank, loader.world) == (2, 5)
    with group_of(1, 3):
        assert (loader.rank, loader.world) == (1, 3)
        assert loader.for_rank(0, 2).world == 2


SPAWN = """
import os, sys
import torch.distributed as dist
import torch.multiprocessing as mp
from pipeline.loader import Loader

def run(rank, world, store, port):
    early = Loader(store, size=8, batch_size=6, drop_last=False)
    if "RANK" not in os.environ:
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    dist.init_process_group("gloo", rank=rank, world_size=world)
    late = Loader(store, size=8, batch_size=6, drop_last=False)
    for loader in (early, late):
        mine = [batch.rows.tolist() for batch in loader]
        parts = [None] * world
        dist.all_gather_object(parts, mine)
        rows = [row for part in parts for batch in part for row in batch]
        assert len(rows) == len(set(rows)) == 58, (rank, len(rows), len(set(rows)))
    dist.barrier()
    dist.destroy_process_group()

if __name__ == "__main__":
    if "RANK" in os.environ:
        run(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), sys.argv[1], sys.argv[2])
    else:
        mp.spawn(run, (3, sys.argv[1], sys.argv[2]), nprocs=3)
    print("disjoint")
"""


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["spawn", "torchrun"])
def test_real_ranks_read_disjoint_rows(store: Path, tmp_path: Path, launcher: str) -> None:
    """Spawned ranks have only their process group, and launched ones an environment."""
    script = tmp_path / "train.py"
    script.write_text(SPAWN)
    run = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=3"]
    port = str(free_port())
    ended = subprocess.run(
        [sys.executable, *(run if launcher == "torchrun" else []), script, store, port],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("disjoint") == (3 if launcher == "torchrun" else 1)


PRINT_ROWS = """
import sys
from pipeline.loader import Loader
rows = [row for batch in Loader(sys.argv[1], size=8, batch_size=8) for row in batch.rows.tolist()]
print(" ".join(map(str, rows)) + "\\n", end="", flush=True)
"""
"""The code of a rank of a launcher, which prints the rows that it reads on one line."""


@pytest.mark.slow
def test_real_ranks_of_mpirun_read_disjoint_rows(store: Path, tmp_path: Path) -> None:
    """Ranks of mpirun need neither a process group nor mpi4py."""
    if shutil.which("mpirun") is None:
        pytest.skip("needs mpirun, as of Debian's openmpi-bin")
    (tmp_path / "train.py").write_text(PRINT_ROWS)
    ended = subprocess.run(
        ["mpirun", "--oversubscribe", "-np", "3", sys.executable, tmp_path / "train.py", store],
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "OMPI_ALLOW_RUN_AS_ROOT": "1",
            "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        },
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert ended.returncode == 0, ended.stderr
    parts = [line.split() for line in ended.stdout.splitlines()]
    rows = [row for part in parts for row in part]
    assert len(parts) == 3
    assert len(rows) == len(set(rows)) == READABLE // 8 * 8


def test_an_epoch_without_rows_is_an_error(store: Path) -> None:
    """The argument drop_last=False makes no difference."""
    with pytest.raises(StoreError, match="has 0 usable rows: an epoch would have no batch"):
        next(iter(Loader(store, size=8, include_labels=[], drop_last=False)))
