"""Random sources of every kind, intact or damaged, with the true label of each image.

Each image's bytes are its own number, and a table that the code under test never sees holds its
label. Thus no tested code takes part in the answer.
"""

from __future__ import annotations

import io
import json
import pickle
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import strategies as st

from pipeline.sources.options import SourceOptions
from tests.pipeline.sources.layouts import tar_bytes

Draw = Callable[[st.SearchStrategy[Any]], Any]
Tree = dict[str, bytes]

WORDS = ("zebra", "ant", "Maine coon", "T-shirt, top", "caf\u00e9", "dog", "cat", "crane", "fox")
WNIDS = tuple(f"n{2_119_789 + 7_919 * (k * 5 % 13):08d}" for k in range(13))
CLUTTER = (
    "@eaDir/x@SynoEAStream", "$RECYCLE.BIN/a.jpg", "lost+found/b.jpg", "__MACOSX/c.jpg",
    "System Volume Information/d.jpg", "#recycle/e.png", ".DS_Store", ".git/f.jpg",
    "Icon\r", "Thumbs.db", "g.jpg~", "h.jpg.part", "i.jpg:Zone.Identifier", "readme.txt",
)  # fmt: skip


@dataclass(repr=False)
class GeneratedSource:
    """A source on the disk, with the label of each image."""

    kind: str
    files: Tree = field(default_factory=dict)
    folders: list[str] = field(default_factory=list)
    """The folders that contain no files."""
    splits: tuple[str, ...] = ("train",)
    labels: dict[bytes, int] = field(default_factory=dict)
    """The label of each image, by its bytes."""
    damage: str = ""
    """The reason to refuse the source; an empty text means that it must be read."""
    options: SourceOptions = field(default_factory=SourceOptions)
    source_kind: str | None = None

    def __repr__(self) -> str:
        texts = {name: data for name, data in self.files.items() if len(data) < 200}
        return (
            f"{self.kind}, {self.damage or 'whole'}: {sorted(self.files)}, {texts}, {self.options}"
        )

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(repr(self))

    def write(self, root: Path) -> Path:
        """Write the source into *root*."""
        for folder in self.folders:
            (root / folder).mkdir(parents=True, exist_ok=True)
        for name, data in self.files.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(data)
        return root

    def image(self, label: int) -> bytes:
        """Return the bytes of a further image with the given *label*."""
        data = b"image %d" % len(self.labels)
        self.labels[data] = label
        return data


def in_order(names: Iterable[str]) -> list[str]:
    """Return the distinct names in order: numbers by value, then names by their bytes."""
    unique = set(names)
    numbers = sorted((name for name in unique if name.isascii() and name.isdigit()), key=int)
    return numbers + sorted(unique - set(numbers), key=lambda name: name.encode())


def class_names(draw: Draw) -> list[str]:
    """Return names of class folders, in no order."""
    count = draw(st.integers(1, 13))
    scheme = draw(st.sampled_from(["wnid", "word", "0", "1", "07", "gaps", "mixed"]))
    if scheme == "wnid":
        return list(WNIDS[:count])
    if scheme == "word":
        return list(WORDS[: min(count, len(WORDS))])
    if scheme == "mixed":
        return [str(k) for k in range(count)] + ["background", "b10"]
    first, step, width = {"0": (0, 1, 1), "1": (1, 1, 1), "07": (0, 1, 2), "gaps": (3, 4, 1)}[
        scheme
    ]
    return [f"{first + step * k:0{width}d}" for k in range(count)]


def draw_images(
    draw: Draw, names: list[str], splits: tuple[str, ...]
) -> list[tuple[str, str, str]]:
    """Return (split, class, file name) of some images, with at least one in each split."""
    images = []
    for split in splits:
        chosen = draw(st.lists(st.sampled_from(names), min_size=1, max_size=16))
        images += [(split, name, f"{split}_{k}.jpg") for k, name in enumerate(chosen)]
    return images


# --- folders and trees ----------------------------------------------------------------------------


def class_folders(draw: Draw) -> GeneratedSource:
    """Return class folders, with splits or without, and with common irregularities."""
    splits = draw(st.sampled_from([("train",), ("train", "val"), ("val", "train", "test")]))
    source = GeneratedSource("folder", splits=splits)
    images = draw_images(draw, class_names(draw), splits)
    empty = draw(st.sampled_from(["", "", "an empty one"]))
    order = in_order([name for _, name, _ in images] + [empty] * bool(empty))
    deep = draw(st.booleans()) and len(splits) == 1
    for split, name, file in images:
        prefix = "" if deep else f"{split}/"
        inner = draw(st.sampled_from(["", "", "images/"]))
        source.files[f"{prefix}{name}/{inner}{file}"] = source.image(order.index(name))
    top = "" if deep else f"{splits[0]}/"
    if empty:
        source.folders.append(f"{top}{empty}")
    used = f"{top}{images[0][1]}/"
    for clutter in draw(st.lists(st.sampled_from(CLUTTER), max_size=4)):
        source.files[draw(st.sampled_from([top, used])) + clutter] = b"clutter"
    _hurt_folders(draw, source, top, images, order)
    return source


def _hurt_folders(
    draw: Draw, source: GeneratedSource, top: str, images: list[Any], order: list[str]
) -> None:
    first = images[0][1]
    damage = draw(st.sampled_from([_leave, _leave, _nest, _put_beside, _other_case, _form, _twice]))
    damage(source, top, first, order)


def _leave(source: GeneratedSource, top: str, first: str, order: list[str]) -> None:
    """Leave the source intact."""


def _nest(source: GeneratedSource, top: str, first: str, order: list[str]) -> None:
    source.files[f"{top}{first}/batch2/deep.jpg"] = source.image(order.index(first))
    if source.folders or len(source.files) % 2:
        source.damage = "an image below a class folder"
    else:
        source.options = SourceOptions(recursive="first")


def _put_beside(source: GeneratedSource, top: str, first: str, order: list[str]) -> None:
    source.files[f"{top}beside.jpg"] = source.image(0)
    source.damage = "an image beside the class folders"


def _other_case(source: GeneratedSource, top: str, first: str, order: list[str]) -> None:
    """Rename one class of another split by swapping the case of its letters."""
    changed = first.swapcase()
    if len(source.splits) > 1 and changed != first:
        source.files[f"{source.splits[1]}/{changed}/1.jpg"] = source.image(0)
        remaining = {
            n: d
            for n, d in source.files.items()
            if not n.startswith(f"{source.splits[1]}/{first}/")
        }
        source.files, source.damage = remaining, "classes that differ only in case"


def _form(source: GeneratedSource, top: str, first: str, order: list[str]) -> None:
    """Decompose the names of the last split, as some systems do."""
    split = source.splits[-1]
    source.files = {
        unicodedata.normalize("NFD", name) if name.startswith(f"{split}/") else name: data
        for name, data in source.files.items()
    }


def _twice(source: GeneratedSource, top: str, first: str, order: list[str]) -> None:
    if "val" in source.splits:
        source.files["validation/other/1.jpg"] = source.image(0)
        source.damage = "two folders of one split"


def packed_trees(draw: Draw) -> GeneratedSource:
    """Return a tree, class tars, or a tar of class tars, compressed or not."""
    source = GeneratedSource(draw(st.sampled_from(["tree", "class tars", "tar of tars"])))
    names = list(WNIDS[: draw(st.integers(1, 13))])
    if source.kind == "tree":
        names = class_names(draw)
    images = draw_images(draw, names, ("train",))
    order = in_order(name for _, name, _ in images)
    members = {f"{name}/{file}": source.image(order.index(name)) for _, name, file in images}
    suffix, mode = draw(st.sampled_from([("", "w"), (".gz", "w:gz")]))
    if source.kind == "tree":
        source.source_kind = "tar"
        source.files[f"set.tar{suffix}"] = tar_bytes(members, mode)
        return source
    inner: dict[str, Tree] = {}
    for key, data in members.items():
        inner.setdefault(key.split("/")[0], {})[key.split("/")[1]] = data
    tars = {f"{name}.tar": tar_bytes(files) for name, files in inner.items()}
    if source.kind == "class tars":
        source.files |= tars
    else:
        source.files[f"ILSVRC2012_img_train.tar{suffix}"] = tar_bytes(tars, mode)
    return source


def tables_of_val(draw: Draw) -> GeneratedSource:
    """Return flat val images with a table of classes: Tiny-ImageNet's or ILSVRC2012's."""
    source = GeneratedSource(draw(st.sampled_from(["tiny", "kaggle"])), splits=("train", "val"))
    names = list(WNIDS[: draw(st.integers(1, 13))])
    images = draw_images(draw, names, ("train", "val"))
    order = in_order(name for _, name, _ in images)
    base = "ILSVRC/Data/CLS-LOC/" if source.kind == "kaggle" else ""
    lines = []
    for number, (split, name, file) in enumerate(images, 1):
        data = source.image(order.index(name))
        if split == "train":
            source.files[f"{base}train/{name}/{file}"] = data
        elif source.kind == "tiny":
            source.files[f"val/images/val_{number}.JPEG"] = data
            lines.append(f"val_{number}.JPEG\t{name}\t0\t0\t9\t9")
        else:
            stem = f"ILSVRC2012_val_{number:08d}"
            source.files[f"{base}val/{stem}.JPEG"] = data
            lines.append(f"{stem},{name} 1 2 3 4 ")
    damage = draw(st.sampled_from(["", "", "line", "half", "class", "bom"]))
    if damage == "line":
        lines.pop(draw(st.integers(0, len(lines) - 1)))
        source.damage = "an image that the table does not name"
    elif damage == "half":
        source.files[f"{base}val/{WNIDS[0]}/sorted.JPEG"] = source.image(0)
        source.damage = "a val split that is half sorted"
    elif damage == "class" and source.kind == "tiny":
        lines.append(lines[0].replace(lines[0].split("\t")[1], "n99999999"))
        source.damage = "a table that says two classes"
    header = "ImageId,PredictionString" if source.kind == "kaggle" else ""
    end = draw(st.sampled_from(["\n", "\r\n"]))
    text = end.join([*[header] * bool(header), *lines, ""])
    table = "LOC_val_solution.csv" if source.kind == "kaggle" else "val/val_annotations.txt"
    source.files[table] = (b"\xef\xbb\xbf" if damage == "bom" else b"") + text.encode()
    return source


def flat_folders(draw: Draw) -> GeneratedSource:
    """Return images of no class, or all of one class."""
    name = draw(st.sampled_from(["", "-", "pet"]))
    source = GeneratedSource("flat", options=SourceOptions(class_name=name))
    top = draw(st.sampled_from(["", "train/"]))
    for k in range(draw(st.integers(1, 5))):
        source.files[f"{top}cat.{k}.jpg"] = source.image(0 if name == "pet" else -1)
    if top and not name:
        source.damage = "a split without class folders"
    return source


# --- labels ---------------------------------------------------------------------------------------


@dataclass
class _Labelled:
    """The labels of samples, before they are written to a table or to texts."""

    values: list[Any]
    """The value of each label."""
    labels: list[int]
    names: list[str] | None
    """The table of names by number, if there is one."""
    damage: str = ""


def _numbered(draw: Draw, digits: tuple[str, ...] = ()) -> _Labelled:
    """Return labels that are numbers, without a table or with one that may hold *digits*."""
    count = draw(st.integers(1, 13))
    first, step = draw(st.sampled_from([(0, 1), (1, 1), (2, 3), (0, 10)]))
    names: list[str] | None = None
    if draw(st.booleans()):
        last = first + step * (count - 1)
        pool = draw(st.permutations([*WORDS, "crane", "ant", *digits]))
        names = [pool[k % len(pool)] for k in range(last + 1)]
    numbers = draw(
        st.lists(
            st.sampled_from(range(count)).map(lambda k: first + step * k), min_size=1, max_size=14
        )
    )
    ranks = sorted(set(numbers))
    labels = [number if names is not None else ranks.index(number) for number in numbers]
    labelled = _Labelled(list(numbers), labels, names)
    _hurt_numbers(draw, labelled)
    return labelled


def _hurt_numbers(draw: Draw, labelled: _Labelled) -> None:
    damage = draw(st.sampled_from(["", "", "none", "short", "negative", "part", "list"]))
    row = draw(st.integers(0, len(labelled.values) - 1))
    if damage == "none":
        removed = labelled.values[row]
        labelled.values[row], labelled.labels[row] = draw(st.sampled_from([-1, None])), -1
        if labelled.names is None and removed not in labelled.values:
            present = sorted({v for v in labelled.values if isinstance(v, int) and v >= 0})
            labelled.labels = [
                present.index(v) if isinstance(v, int) and v >= 0 else -1 for v in labelled.values
            ]
    elif damage == "short" and labelled.names is not None:
        labelled.names = labelled.names[: max(labelled.values)]
        labelled.damage = "a number beyond its table" if labelled.names else ""
        if not labelled.names:  # an empty table is none
            ranks = sorted(set(labelled.values))
            labelled.names, labelled.labels = None, [ranks.index(v) for v in labelled.values]
    elif damage == "negative":
        labelled.values[row], labelled.damage = -draw(st.integers(2, 99)), "a negative number"
    elif damage == "part":
        labelled.values[row], labelled.damage = 0.5, "no whole number"
    elif damage == "list":
        labelled.values[row], labelled.damage = [0, 1, 0], "one-hot"


def _named(draw: Draw) -> _Labelled:
    """Return labels that are names, with a table that numbers them or without."""
    pool = draw(st.sampled_from([WORDS, WNIDS]))
    names = draw(st.lists(st.sampled_from(pool), min_size=1, max_size=14))
    table = list(draw(st.permutations(sorted(set(names))))) if draw(st.booleans()) else None
    if pool is WNIDS and table is not None:
        table = draw(st.permutations(WNIDS))
    order = in_order(names) if table is None else list(table)
    labelled = _Labelled(list(names), [order.index(name) for name in names], table)
    damage = draw(st.sampled_from(["", "", "unknown", "number", "twice"]))
    row = draw(st.integers(0, len(names) - 1))
    if damage == "unknown" and table is not None and pool is WORDS:
        labelled.values[row], labelled.damage = "no such class", "a name that is not in the table"
    elif damage == "number" and table is None and len(names) > 1:
        labelled.values[row] = 3
        labelled.damage = "numbers and names"
    elif damage == "twice" and table is not None and pool is WORDS:
        labelled.names = [*table, labelled.values[row]]
        labelled.damage = "a name that stands twice in the table"
    return labelled


def _class_table(draw: Draw, names: list[str]) -> bytes:
    end = draw(st.sampled_from(["\n", "\r\n"]))
    lines = list(names)
    if draw(st.booleans()):
        lines = [f"{number} {name}" for number, name in enumerate(lines)]
    text = end.join(lines) + end * draw(st.integers(0, 2))
    return (b"\xef\xbb\xbf" if draw(st.booleans()) else b"") + text.encode()


def shards(draw: Draw) -> GeneratedSource:
    """Return WebDataset shards with `.cls` or `.json`, in any spelling of a label."""
    labelled = _numbered(draw) if draw(st.booleans()) else _named(draw)
    source = GeneratedSource("webdataset", damage=labelled.damage)
    where = draw(st.sampled_from(["", "", "00000/", "photos/"]))
    members: list[Tree] = [{} for _ in range(draw(st.integers(1, 2)))]
    # without a table that counts them, 3 and 003 may be codes of two classes
    styles = ["{}", "{:03d}", "{}.0"]
    style = draw(st.sampled_from(styles)) if labelled.names is None else ""
    for k, (value, label) in enumerate(zip(labelled.values, labelled.labels, strict=True)):
        parts = _spelt(draw, value, [style] if style else styles)
        shard = members[k % len(members)]
        shard[f"{where}{k:05d}.jpg"] = source.image(label)
        shard |= {f"{where}{k:05d}.{suffix}": text for suffix, text in parts.items()}
    if labelled.names is not None:
        source.files["classes.txt"] = _class_table(draw, labelled.names)
    for number, shard in enumerate(members):
        if shard:
            source.files[f"train-{number:06d}.tar"] = tar_bytes(shard)
    _hurt_shards(draw, source, labelled, where)
    return source


def _spelt(draw: Draw, value: Any, styles: list[str]) -> dict[str, bytes]:
    """Return one label as members of a shard; a number in text has one of *styles*."""
    if isinstance(value, list | float):
        return {"json": json.dumps({"label": value}).encode()}
    if value is None:
        return {"json": b'{"label": null}'}
    is_number = _is_number(value)
    text = draw(st.sampled_from(styles)).format(value) if is_number else f"{value}"
    texts = [text, f"{text}\n", f" {text} \r\n", f"\ufeff{text}"]
    if is_number and "{}" not in styles:
        return {"cls": draw(st.sampled_from(texts)).encode()}
    both = {"cls": str(value).encode(), "json": json.dumps({"label": value}).encode()}
    word = draw(st.sampled_from(["label", "cls"]))
    return draw(
        st.sampled_from(
            [
                {"cls": draw(st.sampled_from(texts)).encode()},
                {"json": json.dumps({"caption": "x", word: value}).encode()},
                both,
            ]
        )
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int) and value >= 0


def _hurt_shards(draw: Draw, source: GeneratedSource, labelled: _Labelled, where: str) -> None:
    damages = ["", "", "", "blank", "conflict", "lines", "utf8", "folder"]
    if labelled.names is None and _is_number(labelled.values[0]):
        damages.append("spelling")
    damage = draw(st.sampled_from(damages))
    extra: Tree = {f"{where}z.jpg": source.image(0)} if damage else {}
    if damage == "blank" and labelled.names is not None and len(labelled.names) > 1:
        source.files["classes.txt"] = "\n".join(
            [labelled.names[0], "", *labelled.names[1:]]
        ).encode()
        source.damage = "a blank line in the table"
    elif damage == "conflict":
        extra |= {f"{where}z.cls": b"1", f"{where}z.json": b'{"label": 0}'}
        source.damage = "two labels of one sample"
    elif damage in ("lines", "utf8", "spelling"):
        texts = {
            "lines": (b"0\n1\n", "several lines"),
            "utf8": (b"\xff\xfe\xfd", "no UTF-8"),
            "spelling": (f"0{labelled.values[0]!s:0>3}".encode(), "one number in two ways"),
        }
        extra[f"{where}z.cls"], source.damage = texts[damage]
    elif damage == "folder":
        extra = {f"{WNIDS[0]}/z.jpg": source.image(0), f"{WNIDS[0]}/z.cls": WNIDS[1].encode()}
        source.damage = "a folder and a label of two classes"
    if source.damage and extra and damage != "blank":
        source.files["train-000009.tar"] = tar_bytes(extra)
    elif extra:
        source.labels.popitem()


def parquets(draw: Draw) -> GeneratedSource:
    """Return Parquet files with any type of label, and names in the schema or a table, or none."""
    labelled = _numbered(draw, ("7", "0")) if draw(st.booleans()) else _named(draw)
    source = GeneratedSource("parquet", damage=labelled.damage)
    images = [source.image(label) for label in labelled.labels]
    column, labelled.values, source.damage = _typed(draw, labelled)
    paths = draw(st.sampled_from([None, "unique", "photos"]))
    named = (
        None
        if paths is None
        else [f"{'p/' * (paths == 'photos')}{k}.png" for k in range(len(images))]
    )
    structs = [
        {"bytes": data, "path": named[k] if named else None} for k, data in enumerate(images)
    ]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table({"image": pa.array(structs, kind), "label": column})
    if labelled.names is not None:
        numbers = all(v is None or isinstance(v, int | float) for v in labelled.values)
        if numbers and draw(st.booleans()):
            features = {"label": {"names": labelled.names, "_type": "ClassLabel"}}
            hub = {"huggingface": json.dumps({"info": {"features": features}})}
            table = table.replace_schema_metadata(hub)
        else:
            source.files["classes.txt"] = _class_table(draw, labelled.names)
    out = io.BytesIO()
    pq.write_table(table, out, row_group_size=draw(st.integers(1, 8)))
    source.files["train-00000-of-00001.parquet"] = out.getvalue()
    return source


def _typed(draw: Draw, labelled: _Labelled) -> tuple[pa.Array, list[Any], str]:
    """Return the labels as a column of a fitting type, their values, and the damage."""
    values = labelled.values
    if any(isinstance(value, list) for value in values):
        rows = [value if isinstance(value, list) else [1, 0, 0] for value in values]
        return pa.array(rows), rows, "one-hot"
    if all(value is None or isinstance(value, int) for value in values):
        kind = draw(st.sampled_from([pa.int64(), pa.int32(), pa.float64(), pa.string()]))
        if kind == pa.string():
            return _as_text(labelled)
        return pa.array(values, kind), values, labelled.damage
    if all(value is None or isinstance(value, int | float) for value in values):
        return pa.array(values, pa.float64()), values, labelled.damage
    texts = [None if value is None else str(value) for value in values]
    column = pa.array(texts, pa.string())
    if draw(st.booleans()):
        column = column.dictionary_encode()
    return column, texts, labelled.damage


def _as_text(labelled: _Labelled) -> tuple[pa.Array, list[Any], str]:
    """Return numbers as texts; they are damaged if a name equals another class's number."""
    texts = [None if value is None else str(value) for value in labelled.values]
    names = labelled.names or []
    clash = any(
        text in names and (names.count(text) > 1 or names.index(text) != value)
        for text, value in zip(texts, labelled.values, strict=True)
        if text is not None and value >= 0
    )
    damage = labelled.damage or ("digits that are the name of another class" if clash else "")
    return pa.array(texts, pa.string()), texts, damage


def cifars(draw: Draw) -> GeneratedSource:
    """Return CIFAR's batches, with their own order of names."""
    source = GeneratedSource("cifar", splits=("train", "test"))
    names = list(draw(st.permutations(WORDS)))
    for file in ("data_batch_1", "test_batch"):
        labels = draw(st.lists(st.integers(0, len(names) - 1), min_size=1, max_size=6))
        pixels = np.zeros((len(labels), 3072), np.uint8)
        for row, label in enumerate(labels):
            serial = len(source.labels)
            pixels[row, 0] = serial
            ppm = np.zeros((32, 32, 3), np.uint8)
            ppm[0, 0, 0] = serial
            source.labels[b"P6\n32 32\n255\n" + ppm.tobytes()] = label
        batch = {b"data": pixels, b"labels": labels}
        source.files[file] = pickle.dumps(batch, 2)
    if draw(st.booleans()):
        names = names[: draw(st.integers(1, len(names)))]
        if max(source.labels.values()) >= len(names):
            source.damage = "a number beyond its table"
    meta = {b"label_names": [name.encode() for name in names]}
    source.files["batches.meta"] = pickle.dumps(meta, 2)
    return source


@st.composite
def generated_sources(draw: Draw) -> GeneratedSource:
    """Return a source of any kind."""
    makers = [class_folders, class_folders, packed_trees, tables_of_val, flat_folders]
    makers += [shards, shards, parquets, parquets, cifars]
    source: GeneratedSource = draw(st.sampled_from(makers))(draw)
    return source
