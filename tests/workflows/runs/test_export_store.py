"""Rows of a store in files that other tools read: all of them, each once, with the same bytes."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from pipeline.export import formats, rows, shard_task
from pipeline.export.formats import FORMATS, class_names
from pipeline.store import arrays, layout, records
from pipeline.store.encoded_shard import read_rows_of_shard
from pipeline.store.open import open_objects
from pipeline.store.split import open_split
from tests.commands import ROOT, run, start, wait_until
from tests.encoded import prepare_encoded
from tests.images import make_folder, prepare_inline
from tests.inline import no_cluster, run_here
from workflows import cli
from workflows.runs import export_store
from workflows.runs.options import EXPORT_FORMATS

NUM_ROWS, BAD = 30, 3
ENCODING = "jpeg24@80"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a store with the splits train, 3 rows of which are unreadable, and val."""
    root = tmp_path_factory.mktemp("exported")
    choices: dict[str, Any] = {"sizes": (8,), "shard_rows": 8, "chunk_rows": 4}
    for split, count, bad in (("train", NUM_ROWS, BAD), ("val", 10, 0)):
        source = make_folder(root / split, count, bad=bad)
        prepare_encoded(source, str(root / "store"), ["jpeg:24@80"], split=split, **choices)
    return root / "store"


Export = Callable[..., tuple[int, str, str]]


@pytest.fixture
def export(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Export:
    """Return a function that exports here; it returns status, output and errors."""

    def call(*words: object) -> tuple[int, str, str]:
        capsys.readouterr()
        with no_cluster(monkeypatch), monkeypatch.context() as patch:
            patch.setattr(export_store, "run_jobs", run_here)
            status = cli.main(["export", *map(str, words)])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call


def stored(store: Path, split: str, array: str) -> dict[int, tuple[str, str, int, Any]]:
    """Return key, wnid, label and content of the readable rows: pixels, or encoded bytes."""
    objects = open_objects(str(store))
    encoded = [array] if "@" in array else []
    opened = open_split(objects, split, [] if encoded else [int(array)], encoded=encoded)
    table = pq.read_table(store / layout.table(split))
    contents: list[Any] = []
    if encoded:
        for shard in range(opened.plan.num_shards):
            commit = records.load_commit(objects, split, shard)
            assert commit is not None
            geometry = opened.encoded[array].geometry
            count = len(opened.plan.rows(shard))
            contents += read_rows_of_shard(objects, commit.encoded[array], geometry, 0, count)[0]
    else:
        contents = list(arrays.read_pixel_rows(objects, split, int(array), 0, len(table)))
    return {
        row: (
            table["key"][row].as_py(),
            table["wnid"][row].as_py(),
            table["label"][row].as_py(),
            contents[row],
        )
        for row in opened.readable_rows.tolist()
    }


def equal(image: Any, content: Any) -> bool:
    """Return True if an image that was read back has the pixels of the store's row."""
    if isinstance(content, bytes):
        with Image.open(io.BytesIO(content)) as encoded:
            content = np.asarray(encoded.convert("RGB"))
    return np.array_equal(np.asarray(image.convert("RGB")), content)


@pytest.mark.parametrize(("flag", "array"), [("--size=8", "8"), ("--encoded=jpeg:24@80", ENCODING)])
def test_datasets_reads_equal_rows(
    store: Path, tmp_path: Path, export: Export, monkeypatch: pytest.MonkeyPatch, flag: str,
    array: str,
) -> None:  # fmt: skip
    """The library `datasets` finds splits, images and class names by itself."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    datasets = pytest.importorskip("datasets")

    status, said, errors = export(store, "--to", "parquet", "-o", tmp_path / "out", flag)

    assert (status, errors) == (0, "")
    assert said.endswith(f"{tmp_path / 'out'}: {NUM_ROWS - BAD + 10} rows of {array} as parquet\n")
    found = datasets.load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))
    assert set(found) == {"train", "val"}
    for split, rows_of_split in found.items():
        expected = stored(store, split, array)
        assert rows_of_split["row"] == sorted(expected)
        classes = open_split(open_objects(str(store)), split, []).recipe.classes
        assert rows_of_split.features["label"].names == class_names(classes)
        for example in rows_of_split:
            key, wnid, label, content = expected[example["row"]]
            assert (example["key"], example["wnid"], example["label"]) == (key, wnid, label)
            assert equal(example["image"], content)


@pytest.mark.parametrize(("flag", "array"), [("--size=8", "8"), ("--encoded=jpeg:24@80", ENCODING)])
def test_webdataset_reads_equal_rows(
    store: Path, tmp_path: Path, export: Export, flag: str, array: str
) -> None:
    """The library `webdataset` groups the files of a sample and decodes them."""
    pytest.importorskip("webdataset")

    status, _, errors = export(
        store, "--to", "webdataset", "-o", tmp_path / "out", flag, "--split", "train"
    )

    assert (status, errors) == (0, "")
    assert len(list((tmp_path / "out").glob("train/*.tar"))) == 4
    expected = stored(store, "train", array)
    # In a process of its own, since the library leaves files open.
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", READ_WEBDATASET, tmp_path / "out"],
        capture_output=True, text=True, check=True, timeout=100,
    )  # fmt: skip
    samples = [json.loads(line) for line in done.stdout.splitlines()]
    for name, facts, label, pixels in samples:
        key, wnid, known_label, content = expected[facts["row"]]
        assert name == f"{facts['row']:09d}"
        assert (facts["key"], facts["wnid"], label) == (key, wnid, known_label)
        assert equal(Image.fromarray(np.array(pixels, np.uint8)), content)
    assert [facts["row"] for _, facts, _, _ in samples] == sorted(expected)


READ_WEBDATASET = """
import glob, json, sys
import numpy, webdataset
files = sorted(glob.glob(sys.argv[1] + "/train/*.tar"))
for sample in webdataset.WebDataset(files, shardshuffle=False).decode("rgb8"):
    image = sample["png"] if "png" in sample else sample["jpg"]
    print(json.dumps([sample["__key__"], sample["json"], sample["cls"], image.tolist()]))
"""


def test_encoded_rows_are_exported_byte_for_byte(
    store: Path, tmp_path: Path, export: Export
) -> None:
    """Nothing is decoded or encoded again."""
    out = tmp_path / "out"
    assert export(store, "--to", "parquet", "-o", out, "--encoded", "jpeg:24@80")[0] == 0
    expected = stored(store, "train", ENCODING)
    for file in sorted(out.glob("data/train/*.parquet")):
        table = pq.read_table(file)
        for row, image in zip(table["row"].to_pylist(), table["image"].to_pylist(), strict=True):
            assert image["bytes"] == expected[row][3]
            assert image["path"] == f"{expected[row][0]}.jpg"


def contents(folder: Path) -> dict[str, bytes]:
    """Return the files of an export, but the description that has the name of the folder."""
    names = [file for file in folder.rglob("*") if file.is_file()]
    files = [file for file in names if file.name != "croissant.json"]
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


@pytest.mark.parametrize("to", EXPORT_FORMATS)
def test_an_export_continues_where_it_was_broken_off(
    store: Path, tmp_path: Path, export: Export, monkeypatch: pytest.MonkeyPatch, to: str
) -> None:
    """Files that exist are not written again, leftovers go, and the bytes are those at once."""
    words = (store, "--to", to, "--size", 8)
    assert export(*words, "-o", tmp_path / "whole")[0] == 0
    out = tmp_path / "parts"
    done: list[int] = []

    def broken_off(task: Any, shard: int) -> Any:
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(shard)
        return shard_task.export_shard(task, shard)

    with monkeypatch.context() as patch:
        patch.setattr(export_store, "export_shard", broken_off)
        status, _, errors = export(*words, "-o", out)
    assert status == 130
    assert "Run the same command again to continue." in errors
    assert not (out / "README.md").exists()
    kept = {file: file.stat().st_mtime_ns for file in out.rglob("train/0*")}
    assert len(kept) == 3
    (next(iter(kept)).parent / ".0.parquet.0123456789ab.new").write_bytes(b"left")

    assert export(*words, "-o", out)[0] == 0

    assert {file: file.stat().st_mtime_ns for file in kept} == kept
    assert contents(out) == contents(tmp_path / "whole")
    again = export(*words, "-o", out)
    assert "train: all files exist already\nval: all files exist already\n" in again[1]


@pytest.mark.parametrize("change", ["cut", "folder", "missing"])
def test_a_file_that_is_not_whole_is_exported_again(
    store: Path, tmp_path: Path, export: Export, change: str
) -> None:
    """The record has the length of each file that was completed."""
    words = (store, "--to", "webdataset", "--size", 8, "-o", tmp_path / "out")
    assert export(*words)[0] == 0
    before = contents(tmp_path / "out")
    file = tmp_path / "out" / "train" / "000001.tar"
    if change == "cut":
        file.write_bytes(file.read_bytes()[:100])
    else:
        file.unlink()
    if change == "folder":
        file.mkdir()
        assert export(*words)[0] == 1
        file.rmdir()

    assert export(*words)[0] == 0

    assert contents(tmp_path / "out") == before


def test_files_of_somebody_else_are_never_removed(
    store: Path, tmp_path: Path, export: Export
) -> None:
    """Neither in a folder that is refused, nor beside the files of an export."""
    out = tmp_path / "home"
    mine = out / "project" / ".notes.0123456789ab.new"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    assert export(store, "--to", "parquet", "--size", 8, "-o", out)[0] == 1
    assert mine.read_text() == "mine"
    out = tmp_path / "out"
    out.mkdir()
    (out / ".tesserae-export.json.0123456789ab.new").write_text("")
    assert export(store, "--to", "parquet", "--size", 8, "-o", out)[0] == 0
    (out / "data" / "train" / ".notes.new").write_text("mine")
    assert export(store, "--to", "parquet", "--size", 8, "-o", out)[0] == 0
    assert (out / "data" / "train" / ".notes.new").read_text() == "mine"


def test_splits_of_similar_names_stay_apart(
    tmp_path: Path, export: Export, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The library `datasets` allows no hyphen in their names."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    datasets = pytest.importorskip("datasets")
    names = {"train": 9, "train-more": 5, "train_more": 3}
    for split, count in names.items():
        source = make_folder(tmp_path / split, count)
        prepare_inline(source, str(tmp_path / "store"), split=split, sizes=(8,), shard_rows=4)
    out = tmp_path / "out"
    assert export(tmp_path / "store", "--to", "parquet", "-o", out)[0] == 0

    found = datasets.load_dataset(str(out), cache_dir=str(tmp_path / "cache"))

    assert {name: len(rows_of_split) for name, rows_of_split in found.items()} == {
        "train": 9, "train_more": 5, "train_more_": 3,
    }  # fmt: skip
    described = json.loads((out / "croissant.json").read_bytes())
    patterns = [entry["includes"] for entry in described["distribution"]]
    assert [len(list(out.glob(pattern))) for pattern in patterns] == [3, 2, 1]


def test_the_folder_of_another_export_is_refused(
    store: Path, tmp_path: Path, export: Export
) -> None:
    """As is one with other files; nothing is written there."""
    out = tmp_path / "out"
    assert export(store, "--to", "parquet", "-o", out, "--size", 8)[0] == 0
    before = contents(out)
    for words, difference in (
        (("--to", "webdataset", "--size", 8), "another format"),
        (("--to", "parquet", "--encoded", "jpeg:24@80"), "another array"),
        (("--to", "parquet", "--size", 8, "--split", "val"), "another splits"),
    ):
        status, _, errors = export(store, *words, "-o", out)
        assert status == 1
        assert difference in errors
    assert contents(out) == before
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("")
    status, _, errors = export(store, "--to", "parquet", "--size", 8, "-o", tmp_path / "other")
    assert status == 1
    assert "holds other files" in errors


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--to", "parquet"), "--out is missing"),
        (("--to", "parquet", "-o", "x", "--size", 8, "--encoded", "original"), "only one of them"),
        (("--to", "parquet", "-o", "x"), "has the arrays 8, jpeg24@80: pass --size PIXELS or"),
        (("--to", "parquet", "-o", "x", "--size", 9), "9 px"),
        (("--to", "parquet", "-o", "x", "--encoded", "original"), "original"),
        (("--to", "parquet", "-o", "x", "--size", 8, "--split", "test"), "test"),
        (("--to", "csv", "-o", "x"), "csv"),
        (
            ("--to", "parquet", "-o", "s3://b/x", "--size", 8),
            "expected a folder. Export to",
        ),
        (("--size", 8), "--size is for the rows of a store: omit it, or add --to parquet or"),
        (("--workers", 2), "--workers is for the rows of a store"),
    ],
)
def test_wrong_words_are_refused(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, export: Export,
    words: tuple[object, ...], message: str,
) -> None:  # fmt: skip
    """With a sentence, and without a folder."""
    monkeypatch.chdir(tmp_path)
    try:
        status, _, errors = export(store, *words)
    except SystemExit as e:
        pytest.skip(f"argparse has refused it with status {e.code}")
    assert status in (1, 2)
    assert message in errors
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("flag", ["--size=8", "--encoded=jpeg:24@80"])
@pytest.mark.parametrize("change", ["missing", "flipped"])
def test_a_damaged_shard_is_not_exported(
    store: Path, tmp_path: Path, export: Export, flag: str, change: str
) -> None:
    """The message names it, and the other files are kept."""
    damaged = Path(shutil.copytree(store, tmp_path / "damaged"))
    array = "8" if "size" in flag else ENCODING
    name = layout.shard("train", 8, 1) if array == "8" else layout.encoded_shard("train", array, 1)
    file = damaged / name
    if change == "missing":
        file.unlink()
    else:
        data = bytearray(file.read_bytes())
        data[3] ^= 1
        file.write_bytes(data)

    status, _, errors = export(damaged, "--to", "parquet", "-o", tmp_path / "out", flag)

    assert status == 1
    assert "repair" in errors
    assert not list((tmp_path / "out").rglob(".*.new"))
    assert not (tmp_path / "out" / "README.md").exists()


def test_the_card_states_where_rows_come_from(store: Path, tmp_path: Path, export: Export) -> None:
    """The facts in YAML are those that the hub reads; the licence is that of the option."""
    out = tmp_path / "out"
    words = ("--to", "parquet", "--size", 8, "--licence", "cc-by-4.0")
    assert export(store, *words, "-o", out)[0] == 0

    text = (out / "README.md").read_text()

    _, header, page = text.split("---\n", 2)
    facts = yaml.safe_load(header)
    assert facts["license"] == "cc-by-4.0"
    assert facts["dataset_info"]["splits"] == [
        {"name": "train", "num_examples": NUM_ROWS - BAD},
        {"name": "val", "num_examples": 10},
    ]
    assert facts["configs"][0]["data_files"][1] == {"split": "val", "path": "data/val/*.parquet"}
    recipe = records.load_recipe(open_objects(str(store)))
    assert recipe.digest in page
    assert f"| `train` | {NUM_ROWS - BAD} | {BAD} | 3 |" in page


@pytest.mark.parametrize("to", EXPORT_FORMATS)
def test_croissant_is_valid_and_yields_the_rows(
    store: Path, tmp_path: Path, export: Export, to: str
) -> None:
    """The library of MLCommons finds no error, and reads equal rows and the classes."""
    pytest.importorskip("mlcroissant")
    out = tmp_path / "images"
    words = ("--to", to, "--size", 8, "--licence", "https://creativecommons.org/licenses/by/4.0/")
    assert export(store, *words, "-o", out)[0] == 0

    # In a process of its own: the library leaves files open, and parts of it are deprecated.
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", READ_CROISSANT, out / "croissant.json"],
        capture_output=True, text=True, check=True, timeout=100,
    )  # fmt: skip

    found = json.loads(done.stdout)
    assert (found["errors"], found["name"]) == ([], "images")
    if to == "webdataset":
        assert found["records"] == {}
        return
    for split in ("train", "val"):
        expected = stored(store, split, "8")
        assert [record["row"] for record in found["records"][split]] == sorted(expected)
        for record in found["records"][split]:
            key, wnid, label, content = expected[record["row"]]
            assert (record["key"], record["wnid"], record["label"]) == (key, wnid, label)
            assert equal(Image.fromarray(np.array(record["image"], np.uint8)), content)
    classes = open_split(open_objects(str(store)), "train", []).recipe.classes
    assert found["records"]["store/classes"] == [
        {"label": label, "wnid": wnid, "name": name}
        for label, ((wnid, _), name) in enumerate(zip(classes, class_names(classes), strict=True))
    ]


READ_CROISSANT = """
import json, sys
import mlcroissant, numpy

def plain(value):
    if isinstance(value, bytes):
        return value.decode()
    return numpy.asarray(value).tolist()

data = mlcroissant.Dataset(jsonld=sys.argv[1])
records = {
    each.id: [
        {name.rpartition("/")[2]: plain(value) for name, value in record.items()}
        for record in data.records(each.id)
    ]
    for each in data.metadata.record_sets
}
errors = sorted(data.metadata.issues.errors)
print(json.dumps({"errors": errors, "name": data.metadata.name, "records": records}))
"""


def test_classes_of_one_name_are_told_apart() -> None:
    """As the two cranes of ImageNet; a class without words has its wnid."""
    classes = [("n02012849", "crane"), ("n03126707", "crane"), ("n1", "cat"), ("n2", "")]
    assert class_names(classes) == ["crane (n02012849)", "crane (n03126707)", "cat", "n2"]
    classes = [("n1", "crane"), ("n2", "crane"), ("n3", "crane (n1)")]
    assert class_names(classes) == ["crane (n1) (0)", "crane (n2)", "crane (n1) (2)"]


def test_the_formats_are_those_of_the_option() -> None:
    """The module of the options does not import them."""
    assert tuple(FORMATS) == EXPORT_FORMATS


def test_rows_of_any_format_have_its_extension(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of encoded rows that are the source's files."""
    for name, extension in (("PNG", "png"), ("WEBP", "webp"), ("GIF", "gif"), ("BMP", "bmp")):
        file = io.BytesIO()
        Image.new("RGB", (2, 2)).save(file, name)
        found = rows.format_of(file.getvalue())
        assert found is not None
        assert rows.EXTENSIONS[found.name] == extension


def test_large_groups_are_divided(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader of Parquet holds a row group at once."""
    monkeypatch.setattr(formats, "GROUP_BYTES", 100)
    some = [rows.ExportedRow(n, f"k{n}", "n1", 0, "png", b"x" * 60) for n in range(5)]
    file = io.BytesIO()
    assert formats.write_parquet(some, [("n1", "cat")], file) == 5
    parquet = pq.ParquetFile(io.BytesIO(file.getvalue()))
    assert [parquet.metadata.row_group(i).num_rows for i in range(3)] == [2, 2, 1]
    tar = io.BytesIO()
    unlabelled = [rows.ExportedRow(7, "k", "", -1, "jpg", b"x")]
    assert formats.write_webdataset(unlabelled, [], tar) == 1
    with tarfile.open(fileobj=io.BytesIO(tar.getvalue())) as archive:
        assert archive.getnames() == ["000000007.jpg", "000000007.json"]
        facts = json.loads(archive.extractfile("000000007.json").read())  # type: ignore[union-attr]
    assert facts == {"key": "k", "wnid": "", "words": "", "row": 7}


def test_an_export_of_a_store_does_without_torch(store: Path, tmp_path: Path) -> None:
    """Whoever prepares stores need not have it."""
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from workflows.cli import main; sys.exit(main())\n"
    )
    words = ("export", store, "--to", "parquet", "--split", "val", "--size", 99, "-o", tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, words)],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=100,
    )  # fmt: skip
    assert done.returncode == 1
    assert "99 px" in done.stderr
    assert "torch" not in done.stderr


@pytest.mark.slow
def test_a_killed_export_on_a_cluster_is_continued(store: Path, tmp_path: Path) -> None:
    """The workers are real; the files are those of an export at once."""
    words = ("export", store, "--to", "webdataset", "--size", 8, "--no-dashboard")
    whole = run(*words, "-o", tmp_path / "whole", scratch=tmp_path, seconds=100)
    assert (whole.status, whole.err) == (0, "")
    with start(*words, "-o", tmp_path / "parts", scratch=tmp_path) as command:
        assert wait_until(lambda: list((tmp_path / "parts").glob("train/*.tar")))
        command.process.kill()
        assert command.gone(60)
    again = run(*words, "-o", tmp_path / "parts", scratch=tmp_path, seconds=100)
    assert (again.status, again.err) == (0, "")
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")
