"""An index on disk is whole, and of what was asked for, or it is an error that names the file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash
from hypothesis import assume, given
from hypothesis import strategies as st

from pipeline.errors import TesseraeError
from pipeline.neighbours import KINDS, Index, build, load
from pipeline.neighbours import storage as room
from tests.hostile import mutated_fields

IDENTITY = {"model": "devise-7", "store": "abc", "sizes": [72, 224]}
WAYS = [*KINDS, "half"]
"""The kinds, and an exact index of float16."""


def vectors(count: int = 300, dim: int = 24) -> Any:
    """Some, of which one is zero and one not finite."""
    made = np.random.default_rng(0).standard_normal((count, dim)).astype(np.float32)
    made[5], made[6, 1] = 0, np.inf
    return made


def made(way: str) -> Index:
    """A small index."""
    if way == "half":
        return build("exact", vectors().astype(np.float16))
    options = {"lsh": {"bits": 32}, "hnsw": {"links": 4, "dims": 16}}
    return build(way, vectors(), **options.get(way, {}))


def queries() -> Any:
    """A few."""
    return np.random.default_rng(1).standard_normal((20, 24)).astype(np.float32)


@pytest.mark.parametrize("way", WAYS)
def test_an_index_answers_as_before_it_was_saved(way: str, tmp_path: Path) -> None:
    """With its facts and options, and with vectors that are mapped."""
    index = made(way)
    index.save(tmp_path / "of" / "words", IDENTITY)
    back = load(tmp_path / "of" / "words", {**IDENTITY, "sizes": (72, 224)})
    assert isinstance(back.vectors.array, np.memmap)
    assert (back.kind, len(back), back.dim) == (index.kind, len(index), index.dim)
    assert (back.facts, back.options) == (index.facts, index.options)
    assert (str(back), back.candidates) == (str(index), index.candidates)
    for words in ({}, {"candidates": 20}, {"keep": np.arange(100)}, {"ids": 150}):
        for k in (1, 7):
            before, after = (each.search(queries(), k, **words) for each in (index, back))
            np.testing.assert_array_equal(after.rows, before.rows)
            np.testing.assert_array_equal(after.scores, before.scores)


def test_an_exact_index_is_opened_on_a_device(tmp_path: Path) -> None:
    """Another kind is not."""
    made("exact").save(tmp_path / "a", {})
    made("lsh").save(tmp_path / "b", {})
    found = load(tmp_path / "a", {}, device="cpu").search(queries(), 3)
    np.testing.assert_array_equal(found.rows, made("exact").search(queries(), 3).rows)
    with pytest.raises(ValueError, match="only an exact index"):
        load(tmp_path / "b", {}, device="cpu")


@pytest.mark.parametrize("way", WAYS)
def test_vectors_are_on_the_disk_once(way: str, tmp_path: Path) -> None:
    """As they were given, so that anybody can read them; nothing is a pickle."""
    index = made(way)
    index.save(tmp_path, IDENTITY)
    (file,) = tmp_path.glob("vectors-*.npy")
    np.testing.assert_array_equal(np.load(file, allow_pickle=False), index.vectors.array)
    raw = index.vectors.array[8].tobytes()
    assert sum(raw in part.read_bytes() for part in tmp_path.glob("*-*")) == 1


PARTS = {
    "exact": ["index", "lengths", "vectors"],
    "half": ["index", "lengths", "vectors"],
    "lsh": ["codes", "index", "lengths", "vectors"],
    "hnsw": ["axes", "graph", "index", "lengths", "vectors"],
}


@pytest.fixture(scope="module", params=WAYS)
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved index that nobody may change for good."""
    folder = Path(tmp_path_factory.mktemp(request.param))
    made(request.param).save(folder, IDENTITY)
    names = sorted(file.stem.split("-")[0] for file in folder.iterdir() if file.is_file())
    assert names == PARTS[request.param]
    return folder


@given(data=st.data())
def test_damage_anywhere_is_an_error_that_names_the_file(whole: Path, data: st.DataObject) -> None:
    """Any byte of any part changed, the file cut off, lengthened or removed."""
    file = data.draw(st.sampled_from(sorted(f for f in whole.iterdir() if f.is_file())))
    intact = file.read_bytes()
    place = data.draw(st.integers(0, len(intact) - 1))
    how = data.draw(st.sampled_from(["flip", "cut", "longer", "remove"]))
    try:
        if how == "flip":
            other = intact[place] ^ data.draw(st.integers(1, 255))
            file.write_bytes(intact[:place] + bytes([other]) + intact[place + 1 :])
        elif how == "cut":
            file.write_bytes(intact[:place])
        elif how == "longer":
            file.write_bytes(intact + b"\0")
        else:
            file.unlink()
        with pytest.raises(TesseraeError, match=file.name):
            load(whole, IDENTITY)
    finally:
        file.write_bytes(intact)
    load(whole, IDENTITY)


def test_no_byte_of_the_header_is_taken_on_trust(tmp_path: Path) -> None:
    """Not of what it only says: facts, options, white space."""
    made("exact").save(tmp_path, {})
    header = tmp_path / room.HEADER
    intact = header.read_bytes()
    for place in range(len(intact)):
        header.write_bytes(intact[:place] + bytes([intact[place] ^ 1]) + intact[place + 1 :])
        with pytest.raises(TesseraeError, match="does not match its own digest"):
            load(tmp_path, {})


def test_without_digests_only_the_bytes_of_vectors_are_taken_on_trust(whole: Path) -> None:
    """Their size, and all other parts, are checked."""
    for file in sorted(whole.glob("*-*")):
        intact = file.read_bytes()
        file.write_bytes(intact[:-1] + bytes([intact[-1] ^ 1]))
        if file.name.startswith("vectors"):
            load(whole, IDENTITY, digests=False)
            file.write_bytes(b"\x93NUMPX" + intact[6:])  # no array any more
        with pytest.raises(TesseraeError, match=r"index again|damaged"):
            load(whole, IDENTITY, digests=False)
        file.write_bytes(intact[:-1])
        with pytest.raises(TesseraeError, match=file.name):
            load(whole, IDENTITY, digests=False)
        file.write_bytes(intact)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({**IDENTITY, "model": "devise-8"}, "its model is 'devise-7', and 'devise-8' was asked"),
        ({"model": "devise-7", "sizes": [72, 224]}, "its store is 'abc', and nothing was asked"),
        ({**IDENTITY, "split": "val"}, "its split is nothing, and 'val' was asked"),
        ({**IDENTITY, "sizes": [72]}, r"its sizes is \[72, 224\], and \[72\] was asked"),
        ({**IDENTITY, "model": None}, "its model is 'devise-7', and None was asked"),
    ],
)
def test_an_index_of_something_else_is_refused(whole: Path, asked: Any, said: str) -> None:
    """By the first thing that differs."""
    with pytest.raises(TesseraeError, match=said):
        load(whole, asked)


def rewritten(folder: Path, **fields: Any) -> None:
    """A header that says something else, and is whole."""
    header = json.loads((folder / room.HEADER).read_text())
    header.pop("digest")
    (folder / room.HEADER).write_bytes(room._encode({**header, **fields}))


def test_another_format_is_refused(tmp_path: Path) -> None:
    """By its number."""
    made("exact").save(tmp_path, {})
    rewritten(tmp_path, format=2)
    with pytest.raises(TesseraeError, match="has format 2: this version reads 1"):
        load(tmp_path, {})


@pytest.mark.parametrize("fields", [{"count": 299}, {"kind": "lsh"}, {"options": {"x": 1}}])
def test_a_header_that_does_not_fit_its_parts_is_refused(fields: Any, tmp_path: Path) -> None:
    """Though all of them are whole."""
    made("hnsw").save(tmp_path, {})
    rewritten(tmp_path, **fields)
    with pytest.raises(TesseraeError, match="build the index again"):
        load(tmp_path, {})


def test_parts_that_do_not_fit_each_other_are_refused(tmp_path: Path) -> None:
    """The graph of other vectors, swapped in with its right size and digest."""
    made("hnsw").save(tmp_path / "a", {})
    build("hnsw", vectors(100), links=4, dims=16).save(tmp_path / "b", {})
    header = json.loads((tmp_path / "a" / room.HEADER).read_text())
    (graph,) = (tmp_path / "b").glob("graph-*")
    data = graph.read_bytes()
    (tmp_path / "a" / graph.name).write_bytes(data)
    digest = xxhash.xxh3_128(data).hexdigest()
    header["parts"]["graph"] = {"file": graph.name, "bytes": len(data), "digest": digest}
    rewritten(tmp_path / "a", parts=header["parts"])
    with pytest.raises(TesseraeError, match="build the index again"):
        load(tmp_path / "a", {})


def test_what_is_not_there_or_no_index_is_a_sentence(tmp_path: Path) -> None:
    """That names where it was looked for."""
    with pytest.raises(TesseraeError, match=r"nowhere.index\.json cannot be read"):
        load(tmp_path / "nowhere", {})
    (tmp_path / room.HEADER).write_text("[" * 100_000)
    with pytest.raises(TesseraeError, match="does not match its own digest"):
        load(tmp_path, {})


def test_an_index_replaces_another_and_leaves_other_files_alone(tmp_path: Path) -> None:
    """Who holds the old one open goes on with it."""
    made("hnsw").save(tmp_path, {"turn": 1})
    (tmp_path / "predictions.npy").write_bytes(b"mine")
    old = load(tmp_path, {"turn": 1})
    before = old.search(queries(), 5).rows
    made("exact").save(tmp_path, {"turn": 2})
    names = sorted(file.stem.split("-")[0] for file in tmp_path.iterdir() if file.is_file())
    assert names == ["index", "lengths", "predictions", "vectors"]
    np.testing.assert_array_equal(old.search(queries(), 5).rows, before)
    assert load(tmp_path, {"turn": 2}).kind == "exact"


@pytest.mark.parametrize("died_at", range(1, 12))
def test_a_save_that_is_cut_off_leaves_what_was_there(
    died_at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever it is: the next one clears up."""
    made("hnsw").save(tmp_path, {"turn": 1})
    calls = 0
    plain = room.LocalObjects.create

    def dying(self: Any, name: str) -> Any:
        nonlocal calls
        calls += 1
        if calls == died_at:
            raise KeyboardInterrupt
        return plain(self, name)

    monkeypatch.setattr(room.LocalObjects, "create", dying)
    try:
        made("lsh").save(tmp_path, {"turn": 2})
        assert died_at > 4  # three parts and the header were written
    except KeyboardInterrupt:
        assert load(tmp_path, {"turn": 1}).kind == "hnsw"
    monkeypatch.undo()
    made("lsh").save(tmp_path, {"turn": 3})
    assert load(tmp_path, {"turn": 3}).kind == "lsh"
    assert len([file for file in tmp_path.iterdir() if file.is_file()]) == 4
    assert list(tmp_path.glob(".tmp/*")) == []


def test_a_place_that_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    """No traceback of the system's."""
    (tmp_path / "file").write_text("")
    with pytest.raises(TesseraeError, match="cannot write to"):
        made("exact").save(tmp_path / "file", {})


def test_an_identity_that_is_no_plain_value_is_refused(tmp_path: Path) -> None:
    """Before anything is written."""
    made("exact").save(tmp_path, {"turn": 1})
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(TypeError):
        made("exact").save(tmp_path, {"turn": {1, 2}})
    assert sorted(tmp_path.rglob("*")) == before


@pytest.fixture(scope="module", params=WAYS)
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / request.param
    made(request.param).save(folder, IDENTITY)
    return folder


@given(data=st.data())
def test_an_index_that_somebody_else_sealed_is_one_or_refused(saved: Path, data: Any) -> None:
    """Its digest is right: another value anywhere in the header is a sentence, or an index."""
    header = saved / room.HEADER
    before = header.read_bytes()
    fields = json.loads(before)
    del fields["digest"]
    changed = data.draw(mutated_fields(fields))
    assume("digest" not in changed)
    text = (json.dumps(changed, sort_keys=True, indent=2) + "\n").encode()
    sealed = {**changed, "digest": xxhash.xxh3_128(text).hexdigest()}
    header.write_bytes((json.dumps(sealed, sort_keys=True, indent=2) + "\n").encode())
    try:
        index = load(saved, IDENTITY)
        assert len(index.search(queries(), 3).rows) == 20
        assert str(index)
    except TesseraeError as e:
        assert str(saved) in str(e)  # noqa: PT017 - it may also be taken
    finally:
        header.write_bytes(before)
