"""The finish step writes the same bytes however often it runs, and leaves intact files alone."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import StoreDamagedError, StoreError
from pipeline.ingest.finish import finish_split
from pipeline.ingest.shard_task import prepare_shard
from pipeline.store import arrays, commit, layout, local, records, table
from pipeline.store.local import LocalObjects
from pipeline.store.open import open_objects
from tests.damage import KINDS, damage, snapshot, touched
from tests.disk import recording
from tests.images import SMALL, plan_inline, prepare_inline

DERIVED = (
    layout.table("train"),
    layout.ledger("train"),
    layout.done("train"),
    f"{layout.array('train', 'label')}/c.0",
    f"{layout.array('train', 'label')}/zarr.json",
    f"{layout.array('train', 'status')}/c.0",
    f"{layout.array('train', 'status')}/zarr.json",
    f"{layout.array('train', '8')}/zarr.json",
    "images.zarr/train/zarr.json",
    "images.zarr/zarr.json",
)


def finish(store: Path, run: str = "train-finish") -> records.FinishRecord:
    LocalObjects(str(store), run).begin()
    return finish_split(str(store), "train", run)


def test_status_and_labels_follow_from_the_parts(store: Path) -> None:
    """Both arrays equal the columns of the table."""
    opened = LocalObjects(str(store), "reader")
    table_rows = table.decode_part(opened.get(layout.table("train")))
    assert table_rows["row"].to_pylist() == list(range(11))
    for name in ("label", "status"):
        assert arrays.read_small(opened, "train", name).tolist() == table_rows[name].to_pylist()
    done = records.load_finish_record(opened, "train")
    assert done is not None
    assert done.counts == {"readable": 10, "truncated": 1}
    assert (done.sizes, done.num_rows) == ((8, 16), 11)


def test_a_second_finish_writes_nothing(store: Path) -> None:
    """No file of a finished split is touched."""
    before = snapshot(store)
    finish(store)
    assert touched(before, snapshot(store)) == set()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", DERIVED)
def test_only_damaged_files_are_written_again(store: Path, name: str, kind: str) -> None:
    """The rewritten files get the same bytes as before."""
    before = snapshot(store)
    damage(store, name, kind, np.random.default_rng(0))
    finish(store)
    after = snapshot(store)
    assert after.data == before.data
    assert touched(before, after) == {name}


def test_a_shard_without_a_commit_is_refused_and_named(store: Path) -> None:
    """Nothing can be derived from such a shard."""
    (store / layout.commit("train", 1)).unlink()
    with pytest.raises(StoreError, match=r"1 of 3 shards are not committed \(the first is 1\)"):
        finish(store)


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_part_is_refused_and_named(store: Path, kind: str) -> None:
    """Nothing is derived from a damaged part, and existing files stay."""
    before = snapshot(store)
    name = layout.part("train", 1)
    damage(store, name, kind, np.random.default_rng(0))
    (store / layout.table("train")).unlink()
    with pytest.raises(StoreDamagedError, match=rf"{name} is missing or damaged"):
        finish(store)
    assert touched(before, snapshot(store)) == {name, layout.table("train")}


def test_a_size_is_finished_only_when_all_shards_have_it(store: Path, finished_store: Path) -> None:
    """The other sizes are finished."""
    source = finished_store.parent / "images"
    _, _, work = plan_inline(source, str(store), sizes=(8, 16, 24), **SMALL)
    prepare_shard(work, 0)
    assert finish_split(str(store), "train", work.run).sizes == (8, 16)
    for shard in (1, 2):
        prepare_shard(work, shard)
    assert finish_split(str(store), "train", work.run).sizes == (8, 16, 24)


def test_all_objects_are_durable_before_the_record_is_written(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Objects of processes that may have been killed before a sync are synced, too."""
    monkeypatch.setattr(local, "_durable", set())
    (store / layout.done("train")).unlink()
    with recording(monkeypatch, store) as ops:
        finish(store)
    done = next(index for index, op in enumerate(ops) if op[-1] == layout.done("train"))
    synced = {op[1] for op in ops[:done] if op[0] == "sync_folder"}
    folders = {str(path.relative_to(store)) for path in store.rglob("*") if path.is_dir()}
    covered = {name for name in folders if not name.startswith((".tmp", ".cache"))}
    assert covered <= synced


def test_commits_of_other_runs_make_the_same_split(store: Path, tmp_path: Path) -> None:
    """Provenance affects nothing but the commit itself and its copy."""
    before = snapshot(store)
    name = layout.commit("train", 0)
    decoded = commit.decode_commit((store / name).read_bytes(), name)
    (store / name).write_bytes(replace(decoded, provenance={"host": "another"}).encode())
    finish(store)
    assert touched(before, snapshot(store)) == {name, layout.ledger("train")}


def test_an_object_store_is_finished_in_the_same_way(
    finished_store: Path, tmp_path: Path, monkeypatch
) -> None:
    """Objects that exist already are not written again."""
    url = f"memory://{tmp_path}"
    prepare_inline(finished_store.parent / "images", url, **SMALL)
    remote = open_objects(url)
    puts: list[str] = []
    monkeypatch.setattr(type(remote), "_pipe", lambda _, name, *__, **___: puts.append(name))
    finish_split(url, "train", "train-again")
    assert puts == []
    for name in DERIVED[:1] + DERIVED[3:]:
        assert remote.get(name) == (finished_store / name).read_bytes()
