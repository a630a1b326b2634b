"""A store from an attacker: commands end with a message, and change no file outside of it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xxhash

from pipeline.ingest.source_index import SCHEMA
from pipeline.store import arrays, document, layout, records, table
from pipeline.store.fingerprint import fingerprint
from pipeline.store.ledger import encode_ledger
from pipeline.store.local import LocalObjects
from pipeline.store.open import open_objects
from tests.images import make_folder, prepare_inline
from tests.inline import NoCluster, tesserae
from workflows import cluster_kinds

CHOICES = {"sizes": (8,), "shard_rows": 4, "chunk_rows": 2}
OPTIONS = ("--sizes", 8, "--shard-rows", 4, "--chunk-rows", 2, "--max-bad", 1, "--workers", 1)
PART = layout.part("train", 0)
COMMIT = layout.commit("train", 0)
DONE = layout.done("train")


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepare a source and its store."""
    root = tmp_path_factory.mktemp("foreign")
    prepare_inline(make_folder(root / "images", 11, bad=1), str(root / "store"), **CHOICES)
    return root


@pytest.fixture
def store(template: Path, tmp_path: Path) -> Path:
    shutil.copytree(template / "store", tmp_path / "store")
    return tmp_path / "store"


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """Return a folder beside the store that no command may change."""
    folder = tmp_path / "victim"
    for name in ("keys", "train-x/thesis", "train.spool/photograph", "train.parts/000000.parquet"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("mine")
    return folder


def everything(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(path): (path.lstat().st_mtime_ns, path.read_bytes() if path.is_file() else b"")
        for path in sorted(folder.rglob("*"))
    }


# --- what an enemy does ---------------------------------------------------------------------------


def fields_of(store: Path, name: str) -> dict[str, Any]:
    fields = json.loads((store / name).read_text())
    del fields["digest"]
    return dict(fields)


def write(store: Path, name: str, fields: dict[str, Any]) -> None:
    (store / name).write_bytes(document.encode_document(fields))


def seal(store: Path) -> None:
    """Make the finish record and the ledger agree with the forged commits."""
    commits = sorted((store / "commits" / "train").glob("*.json"))
    done = fields_of(store, DONE)
    parts = "".join(str(json.loads(file.read_text())["table"]["digest"]) for file in commits)
    done["parts"] = xxhash.xxh3_128(parts.encode()).hexdigest()
    for written in done["objects"]:
        file = store / written["name"]
        if file.is_file():
            data = file.read_bytes()
            written |= {
                "num_bytes": len(data),
                "digest": xxhash.xxh3_128(data).hexdigest(),
            }
    write(store, DONE, done)
    names = [layout.RECIPE, layout.plan("train")]
    names += [str(file.relative_to(store)) for file in commits]
    copies = [(name, (store / name).read_bytes()) for name in names]
    (store / layout.ledger("train")).write_bytes(encode_ledger(copies))


def changes(name: str, *keys: str | int, value: Any) -> Callable[[Path, Path], None]:
    """Return an attack that changes one value of a document, with valid digests."""

    def attack(store: Path, _: Path) -> None:
        fields: Any = fields_of(store, name)
        parent = fields
        for key in keys[:-1]:
            parent = parent[key]
        parent[keys[-1]] = value
        write(store, name, fields)
        if name != DONE:
            seal(store)

    return attack


def links(name: str, to: str = "") -> Callable[[Path, Path], None]:
    """Return an attack that replaces a file or folder by a link into the victim's folder."""

    def attack(store: Path, victim: Path) -> None:
        path = store / name
        if path.is_dir():
            shutil.rmtree(path)
        elif path.exists():
            path.unlink()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(victim / to)

    return attack


def pipe(name: str) -> Callable[[Path, Path], None]:
    """Return an attack that replaces a file by a pipe without a writer."""

    def attack(store: Path, _: Path) -> None:
        (store / name).unlink()
        os.mkfifo(store / name)

    return attack


def long(name: str) -> Callable[[Path, Path], None]:
    """Return an attack that replaces a file by a sparse file of a terabyte."""

    def attack(store: Path, _: Path) -> None:
        with (store / name).open("wb") as file:
            file.truncate(2**40)

    return attack


def other_part(make: Callable[[pa.Table], pa.Table]) -> Callable[[Path, Path], None]:
    """Return an attack that changes a table part and its digest in the commit."""

    def attack(store: Path, _: Path) -> None:
        file = store / PART
        sink = pa.BufferOutputStream()
        pq.write_table(make(table.decode_part(file.read_bytes())), sink)
        data = sink.getvalue().to_pybytes()
        file.write_bytes(data)
        fields = fields_of(store, COMMIT)
        fields["table"] |= {"num_bytes": len(data), "digest": xxhash.xxh3_128(data).hexdigest()}
        write(store, COMMIT, fields)
        seal(store)
        (store / layout.array("train", "status") / "c.0").unlink()

    return attack


def other_rows(column: str, value: Any) -> Callable[[Path, Path], None]:
    """Return an attack that changes the source index, and removes a shard."""

    def attack(store: Path, victim: Path) -> None:
        file = store / layout.source_index("train")
        with pa.OSFile(str(file)) as raw:
            opened = pa.ipc.open_file(raw)
            batches = [opened.get_batch(k) for k in range(opened.num_record_batches)]
            described = opened.schema
        index = SCHEMA.get_field_index(column)
        with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_file(sink, described) as out:
            for batch in batches:
                values = pa.array([value] * batch.num_rows, SCHEMA.field(index).type)
                columns = [values if k == index else c for k, c in enumerate(batch.columns)]
                out.write_batch(pa.RecordBatch.from_arrays(columns, schema=described))
        data = file.read_bytes()
        written = fingerprint(layout.source_index("train"), data)
        record = {"rows": {**vars(written)}, "format": 2}
        write(store, layout.source_index_record("train"), record)
        (store / layout.shard("train", 8, 0)).unlink()

    return attack


def rows_lead(key: str) -> Callable[[Path, Path], None]:
    """Return an attack that makes the record of the source index refer to another file."""

    def attack(store: Path, _: Path) -> None:
        fields = fields_of(store, layout.source_index_record("train"))
        fields["rows"][key] = "../victim/keys" if key == "name" else []
        write(store, layout.source_index_record("train"), fields)
        (store / layout.shard("train", 8, 0)).unlink()

    return attack


def written_part(name: str) -> Callable[[Path, Path], None]:
    """Return an attack whose commit names a file outside of the store as its table part."""

    def attack(store: Path, victim: Path) -> None:
        data = (store / PART).read_bytes()
        fields = fields_of(store, COMMIT)
        fields["table"] = {
            "name": name.format(victim=victim),
            "num_bytes": len(data),
            "digest": xxhash.xxh3_128(data).hexdigest(),
        }
        write(store, COMMIT, fields)
        seal(store)

    return attack


def other_labels(store: Path, _: Path) -> None:
    """Write labels that no class has."""
    objects = LocalObjects(str(store), "train-1")
    objects.begin()
    num_rows = records.load_plan(objects, "train").num_rows
    for name, data in arrays.label_array("train", np.full(num_rows, 2**30, np.int32)):
        objects.put(name, data)
    objects.end()
    seal(store)


def ledger_copies(store: Path, _: Path) -> None:
    """Give the copies in the ledger other names, and remove the plan."""
    text = (store / layout.RECIPE).read_bytes()
    names = ["../victim/keys", "/etc/passwd", "samples/train.parquet", layout.plan("train")]
    data = encode_ledger((name, text) for name in names)
    (store / layout.ledger("train")).write_bytes(data)
    (store / layout.plan("train")).unlink()


ATTACKS: dict[str, Callable[[Path, Path], None]] = {
    "part outside": written_part("../victim/keys"),
    "part outside, in full": written_part("{victim}/keys"),
    "part of another shard": written_part(layout.part("train", 1)),
    "part is a plan": written_part(layout.plan("train")),
    "shard outside": changes(COMMIT, "arrays", "8", "name", value="../victim/keys"),
    "size abc": changes(COMMIT, "arrays", "abc", value={"name": "x"}),
    "bytes are a list": changes(COMMIT, "table", "num_bytes", value=[]),
    "bytes of 400 digits": changes(COMMIT, "table", "num_bytes", value=10**400),
    "hung for ever": changes(COMMIT, "provenance", "image_seconds", value=1e300),
    "negative rows": changes(COMMIT, "start", value=-4),
    "shard is true": changes(COMMIT, "shard", value=True),
    "counts of text": changes(COMMIT, "counts", "readable", value="4"),
    "done outside": changes(DONE, "objects", 0, "name", value="../victim/keys"),
    "done of nothing": changes(DONE, "objects", value=[]),
    "sizes of text": changes(DONE, "sizes", value=["x"]),
    "sizes of millions": changes(DONE, "sizes", value=[10**6]),
    "software is a list": changes(layout.RECIPE, "software", value=[]),
    "classes are numbers": changes(layout.RECIPE, "classes", value=[1, 2, 3]),
    "codec is null": changes(layout.RECIPE, "codec", value=None),
    "shard of all rows": changes(layout.RECIPE, "shard_rows", value=10**30),
    "fit is an object": changes(layout.RECIPE, "fit", value={}),
    "plan of another split": changes(layout.plan("train"), "split", value="../victim"),
    "rows without end": changes(layout.plan("train"), "num_rows", value=2**40),
    "rows of half a number": changes(layout.plan("train"), "num_rows", value=10.5),
    "seed is NaN": changes(layout.plan("train"), "seed", value=float("nan")),
    "ledger": ledger_copies,
    "labels": other_labels,
    "part of other columns": other_part(lambda part: part.select(["key", "reason"])),
    "part of fewer rows": other_part(lambda part: part.slice(1)),
    "part of other rows": other_part(
        lambda part: part.set_column(0, "row", pa.array(range(7, 7 + len(part)), pa.int64()))
    ),
    "part of odd statuses": other_part(
        lambda part: part.set_column(11, "status", pa.array([77] * len(part), pa.uint8()))
    ),
    "part without keys": other_part(
        lambda part: part.set_column(1, "key", pa.nulls(len(part), pa.string()))
    ),
    "rows outside": other_rows("path", "../../victim/keys"),
    "rows of no class": other_rows("label", 10**6),
    "rows before the first class": other_rows("label", -7),
    "rows of negative length": other_rows("num_bytes", -1),
    "rows at negative offsets": other_rows("offset", -1),
    "rows' record outside": rows_lead("name"),
    "rows' record is a list": rows_lead("num_bytes"),
    "link: samples": links("samples"),
    "link: parts": links("samples/train.parts", "train.parts"),
    "link: table": links("samples/train.parquet", "keys"),
    "link: commits": links("commits/train"),
    "link: splits": links("splits"),
    "link: arrays": links("images.zarr/train/8"),
    "link: recipe": links("recipe.json", "keys"),
    "link: ledger": links("splits/train.ledger.jsonl", "keys"),
    "link: .tmp": links(".tmp"),
    "link: .tmp of a run": links(".tmp/train-0", "train-x"),
    "link: lock": links(".tmp/train.lock", "keys"),
    "link: .cache": links(".cache"),
    "link: spool": links(".cache/train.spool", "train.spool"),
    "link: report": links("report.html", "keys"),
    "pipe: recipe": pipe("recipe.json"),
    "pipe: plan": pipe(layout.plan("train")),
    "pipe: commit": pipe(COMMIT),
    "pipe: part": pipe(PART),
    "pipe: shard": pipe(layout.shard("train", 8, 0)),
    "pipe: rows": pipe(layout.source_index("train")),
    "long: recipe": long("recipe.json"),
    "long: commit": long(COMMIT),
    "long: labels": long(layout.small_chunk("train", "label", 0)),
}


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_kinds, "cluster_of", lambda args: NoCluster())


@pytest.mark.parametrize(
    "attack",
    [
        attack if index % 3 == 0 else pytest.param(attack, marks=pytest.mark.slow)
        for index, attack in enumerate(ATTACKS)
    ],
)
def test_commands_on_a_foreign_store_change_no_file_outside(
    template: Path,
    store: Path,
    victim: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    attack: str,
) -> None:
    """Every command ends with an exit status, and none with a traceback."""
    ATTACKS[attack](store, victim)
    before = everything(victim)
    images = everything(template / "images")
    for words in (
        ("info", store),
        ("verify", store, "--source", 3),
        ("repair", store),
        ("repair", store, "--data", template / "images"),
        ("prepare", template / "images", store, *OPTIONS),
    ):
        assert tesserae(monkeypatch, *words) in (0, 1), words
        assert everything(victim) == before, words
    assert everything(template / "images") == images
    assert "Traceback" not in "".join(capsys.readouterr())


@pytest.mark.parametrize("attack", ["part outside", "shard outside", "bytes are a list"])
def test_damage_of_a_foreign_store_is_named_and_repaired(
    template: Path,
    store: Path,
    victim: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    attack: str,
) -> None:
    """The output has file and key; repair restores valid records from the source."""
    ATTACKS[attack](store, victim)
    assert tesserae(monkeypatch, "verify", store) == 1
    assert f"  {COMMIT}: damaged: " in capsys.readouterr().out
    assert tesserae(monkeypatch, "repair", store) == 0
    opened = open_objects(str(store))
    planned = records.load_plan(opened, "train")
    commit = records.load_commits(opened, planned)[0]
    assert commit.table.name == PART
    assert commit.arrays["8"].name == layout.shard("train", 8, 0)
    assert commit.image_seconds == 60.0
