"""Stores of earlier versions stay readable by later versions and by other readers."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pytest
import xxhash
from numpy.typing import NDArray

from pipeline.images import probe
from pipeline.ingest import verify
from pipeline.order import row_order
from pipeline.store import arrays, integrity, layout, records, table
from pipeline.store.open import open_objects
from tests.damage import snapshot
from tests.golden.regenerate import CHOICES, make_source
from tests.images import prepare_inline

GOLDEN = Path(__file__).parents[2] / "golden"
FORMATS = (1, 2)
SPLITS = {"train": 11, "val": 5}
SIZES = (8, 16)

PIXELS = {
    "train/8": "2bc3c5ef2a5274ff99c9efe0ad9c520cf955189f71266e6211ed528304924d70",
    "train/16": "65a2455dbc7b720bfc1e0323b490cf55e27f17891d891912e7826610ab303c59",
    "val/8": "df60a96ffc615ff07925267898aadf408dded496c77c52e93885c6f68f198fd1",
    "val/16": "c0329ae540bd100975ceaf37a6286c47af90b2dcf1c801f6569efbdc04acbc2c",
}
"""SHA-256 of all rows, (N, size, size, 3) uint8 in C order."""

LABELS = {"train": [2, 0, 1, 1, 0, 2, 1, 0, 2, 1, 0], "val": [1, 0, 0, 2, 1]}
STATUS = {"train": [0] * 10 + [3], "val": [0] * 5}


@pytest.fixture(params=FORMATS, ids="format-{}".format)
def store(request: pytest.FixtureRequest) -> Path:
    """Return the golden store of each format."""
    return GOLDEN / f"format-{request.param}"


def sha256(pixels: NDArray[np.uint8]) -> str:
    return hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest()


@pytest.mark.parametrize("split", SPLITS)
def test_golden_records_are_read(store: Path, split: str) -> None:
    """The current version reads every record of an earlier one."""
    objects = open_objects(str(store))
    recipe = records.load_recipe(objects)
    assert (recipe.fit, recipe.filter, recipe.codec) == ("crop", "bicubic", "none")
    assert (recipe.shard_rows, recipe.chunk_rows, recipe.serves) == (4, 2, 16)
    assert recipe.classes[1] == ("n00000001", "Löwenzahn, 蒲公英")
    planned = records.load_plan(objects, split)
    assert (planned.num_rows, planned.seed, planned.order_version) == (SPLITS[split], 7, 1)
    done = records.load_finish_record(objects, split)
    assert done is not None
    assert (done.sizes, done.num_rows) == (SIZES, SPLITS[split])
    assert len(records.load_commits(objects, planned)) == planned.num_shards


@pytest.mark.parametrize("split", SPLITS)
def test_a_golden_store_verifies(store: Path, split: str) -> None:
    """Verification finds no problem and writes nothing."""
    before = snapshot(store)
    objects = open_objects(str(store))
    checked = verify.read_records(objects, split)
    problems = [p for _, p in integrity.check_objects(objects, checked.objects) if p is not None]
    assert [*checked.problems, *problems, *verify.check_finished(checked)] == []
    assert verify.check_planned(objects, checked) == []
    assert verify.unknown_objects(objects, checked) == []
    assert snapshot(store) == before


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("size", SIZES)
def test_zarr_reads_golden_pixels(store: Path, split: str, size: int) -> None:
    """The pixels have not changed."""
    pixels = arrays.read_pixel_rows(open_objects(str(store)), split, size, 0, SPLITS[split])
    assert pixels.shape == (SPLITS[split], size, size, 3)
    assert sha256(pixels) == PIXELS[f"{split}/{size}"]


@pytest.mark.parametrize("split", SPLITS)
def test_zarr_reads_golden_labels_and_status(store: Path, split: str) -> None:
    """Labels and status have not changed."""
    objects = open_objects(str(store))
    assert arrays.read_small(objects, split, "label").tolist() == LABELS[split]
    assert arrays.read_small(objects, split, "status").tolist() == STATUS[split]


@pytest.mark.parametrize("split", SPLITS)
def test_tensorstore_reads_a_golden_store(store: Path, split: str) -> None:
    """An independent implementation reads the store."""
    tensorstore = pytest.importorskip("tensorstore")

    def read(name: str) -> NDArray[Any]:
        kvstore = {"driver": "file", "path": f"{store}/{layout.array(split, name)}/"}
        opened = tensorstore.open({"driver": "zarr3", "kvstore": kvstore}, read=True)
        return np.asarray(opened.result().read().result())

    for size in SIZES:
        assert sha256(read(str(size))) == PIXELS[f"{split}/{size}"]
    assert read("label").tolist() == LABELS[split]
    assert read("status").tolist() == STATUS[split]


@pytest.mark.parametrize("split", SPLITS)
def test_the_table_of_a_golden_store_is_read(store: Path, split: str) -> None:
    """The table agrees with the arrays."""
    objects = open_objects(str(store))
    rows = table.decode_part(objects.get(layout.table(split)))
    assert rows.schema.equals(table.SCHEMA)
    assert rows["row"].to_pylist() == list(range(SPLITS[split]))
    assert rows["label"].to_pylist() == LABELS[split]
    assert rows["status"].to_pylist() == STATUS[split]
    bad = rows.filter(table.pa.compute.not_equal(rows["status"], 0)).to_pylist()
    assert [line["reason"] is not None for line in bad] == [True] * STATUS[split].count(3)


@pytest.mark.parametrize("split", SPLITS)
def test_adding_a_size_keeps_golden_objects(
    store: Path, split: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """New documents have the store's format, and existing objects keep their bytes."""
    recipe = records.load_recipe(open_objects(str(store)))
    software = probe.Probe(
        recipe.decoder, recipe.resizer
    )  # as if it were the one that made the store
    monkeypatch.setattr(probe, "probe", lambda _filter, **rules: software)
    grown = tmp_path / "store"
    shutil.copytree(store, grown)
    source = make_source(tmp_path / "images")
    prepare_inline(source / split, str(grown), split=split, **{**CHOICES, "sizes": (8, 16, 24)})
    checked = verify.read_records(open_objects(str(grown)), split)
    problems = [
        p
        for _, p in integrity.check_objects(open_objects(str(grown)), checked.objects)
        if p is not None
    ]
    assert [*checked.problems, *problems, *verify.check_finished(checked)] == []
    documents = [*grown.glob(f"splits/{split}*.json"), *grown.glob(f"commits/{split}/*.json")]
    texts = [json.loads(file.read_text()) for file in documents]
    assert len(texts) == 2 + len(checked.commits)
    assert {fields["format"] for fields in texts} == {recipe.format}
    dimensions = json.loads((grown / f"images.zarr/{split}/24/zarr.json").read_text())
    sides = {1: ["height", "width"], 2: ["height_24", "width_24"]}[recipe.format]
    assert dimensions["dimension_names"] == ["row", *sides, "channel"]
    for size in SIZES:
        pixels = arrays.read_pixel_rows(open_objects(str(grown)), split, size, 0, SPLITS[split])
        assert sha256(pixels) == PIXELS[f"{split}/{size}"]


# --- A reader made from docs/format.md alone: the standard library and numpy ----------------------


def read_document(path: Path) -> dict[str, Any]:
    """Return a JSON object after checking its digest."""
    fields = json.loads(path.read_text(encoding="utf-8"))
    digest = fields.pop("digest")
    text = json.dumps(fields, sort_keys=True, indent=2, ensure_ascii=False) + "\n"
    assert hashlib.sha256(text.encode()).hexdigest() == digest
    assert fields["format"] in FORMATS
    return fields


def read_pixels(store: Path, split: str, size: int) -> NDArray[np.uint8]:
    """Return all rows from computed offsets, after checking the index of each shard."""
    recipe = read_document(store / "recipe.json")
    done = read_document(store / f"splits/{split}.done.json")
    assert size in done["sizes"]
    assert recipe["codec"] == "none"
    shard_rows, chunk_rows, row_bytes = recipe["shard_rows"], recipe["chunk_rows"], size * size * 3
    chunks, frame = shard_rows // chunk_rows, chunk_rows * row_bytes + 4
    rows = []
    for shard in range(-(-done["num_rows"] // shard_rows)):
        data = (store / f"images.zarr/{split}/{size}/c.{shard}.0.0.0").read_bytes()
        num_rows = min(shard_rows, done["num_rows"] - shard * shard_rows)
        used = -(-num_rows // chunk_rows)
        index = np.frombuffer(data[-4 - 16 * chunks : -4], "<u8").reshape(chunks, 2)
        assert index[:used].tolist() == [[k * frame, frame] for k in range(used)]
        assert (index[used:] == 2**64 - 1).all()
        assert len(data) == used * frame + 16 * chunks + 4
        for i in range(num_rows):
            offset = i // chunk_rows * frame + i % chunk_rows * row_bytes
            rows.append(np.frombuffer(data, np.uint8, row_bytes, offset).reshape(size, size, 3))
        for k in range(used):
            assert checksum(data[k * frame : (k + 1) * frame])
        assert checksum(data[used * frame :])
    return np.stack(rows)


def checksum(framed: bytes) -> bool:
    """Return True if the last four bytes are the CRC-32C of all bytes before them."""
    return google_crc32c.value(framed[:-4]) == int.from_bytes(framed[-4:], "little")


def read_small(store: Path, split: str, name: str, dtype: str) -> list[int]:
    data = (store / f"images.zarr/{split}/{name}/c.0").read_bytes()
    assert checksum(data)
    return np.frombuffer(data[:-4], dtype).tolist()


@pytest.mark.parametrize("split", SPLITS)
def test_a_reader_written_from_the_format_page_reads_the_same(store: Path, split: str) -> None:
    """Pixels, labels and status are equal."""
    for size in SIZES:
        assert sha256(read_pixels(store, split, size)) == PIXELS[f"{split}/{size}"]
    assert read_small(store, split, "label", "<i4") == LABELS[split]
    assert read_small(store, split, "status", "u1") == STATUS[split]


@pytest.mark.parametrize("split", SPLITS)
def test_digests_follow_the_format_page(store: Path, split: str) -> None:
    """Every reference between documents has the right digest."""
    recipe = json.loads((store / "recipe.json").read_text())
    plan = json.loads((store / f"splits/{split}.json").read_text())
    done = read_document(store / f"splits/{split}.done.json")
    assert plan["recipe"] == done["recipe"] == recipe["digest"]
    assert done["plan"] == plan["digest"]
    commits = [read_document(path) for path in sorted((store / f"commits/{split}").iterdir())]
    written = [*done["objects"]]
    for shard, commit in enumerate(commits):
        assert (commit["plan"], commit["shard"]) == (plan["digest"], shard)
        assert commit["start"] == shard * plan["shard_rows"]
        written += [*commit["arrays"].values(), commit["table"]]
    for record in written:
        data = (store / record["name"]).read_bytes()
        actual = (len(data), xxhash.xxh3_128_hexdigest(data))
        assert actual == (record["num_bytes"], record["digest"])
    parts = "".join(commit["table"]["digest"] for commit in commits)
    assert xxhash.xxh3_128_hexdigest(parts.encode()) == done["parts"]
    ledger = (store / f"splits/{split}.ledger.jsonl").read_bytes()
    *lines, last = ledger.splitlines(keepends=True)
    assert json.loads(last) == {"digest": hashlib.sha256(b"".join(lines)).hexdigest()}
    for line in map(json.loads, lines):
        assert (store / line["name"]).read_text() == line["text"]
    assert len(lines) == 2 + len(commits)


@pytest.mark.parametrize("split", SPLITS)
def test_listing_and_order_follow_the_format_page(store: Path, split: str) -> None:
    """The listing is the digest of `<key> TAB <bytes>` lines, and the order follows the rule."""
    plan = read_document(store / f"splits/{split}.json")
    rows = table.decode_part((store / f"samples/{split}.parquet").read_bytes())
    by_key = sorted(zip(rows["key"].to_pylist(), rows["num_bytes"].to_pylist(), strict=True))
    lines = "".join(f"{key}\t{num_bytes}\n" for key, num_bytes in by_key)
    assert hashlib.sha256(lines.encode()).hexdigest() == plan["listing"]

    def mix(v: int) -> int:
        v = (v ^ (v >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        v = (v ^ (v >> 27)) * 0x94D049BB133111EB % 2**64
        return v ^ (v >> 31)

    start = mix(plan["seed"])
    numbers = [mix((start + i * 0x9E3779B97F4A7C15) % 2**64) for i in range(plan["num_rows"])]
    order = sorted(range(plan["num_rows"]), key=numbers.__getitem__)
    assert [by_key[i][0] for i in order] == rows["key"].to_pylist()
    assert order == row_order(plan["num_rows"], plan["seed"]).tolist()
