"""The arrays that a command stores if it names none."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline.ingest.shard_task import prepare_shard
from pipeline.store import layout
from pipeline.store.open import open_objects
from tests.images import SMALL, make_folder, plan_inline, prepare_inline
from workflows.preparation.features import _enlargement_notice
from workflows.preparation.options import PrepareOptions
from workflows.preparation.plans import resolve_arrays


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "images", 5)


def options_of(source: Path, store: Path, **arrays: tuple[int | str, ...]) -> PrepareOptions:
    return PrepareOptions(source=str(source), store=str(store), split=("val",), **arrays)  # type: ignore[arg-type]


@pytest.mark.parametrize("sizes", [(), (8, 16)])
def test_a_store_of_encoded_rows_gets_no_squares_that_nobody_asked_for(
    source: Path, tmp_path: Path, sizes: tuple[int, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    """A further split has the arrays of the splits before it, and the command says so."""
    store = tmp_path / "store"
    encoded = ("original", "jpeg:16@90")
    prepare_inline(source, str(store), sizes=sizes, encoded=encoded, **SMALL)
    stored = resolve_arrays(options_of(source, store)).store_options
    assert stored.array_names == (*map(str, sizes), "jpeg16@90", "original")
    out = capsys.readouterr().out
    assert "jpeg:16@90, original; --sizes and --encoded name others" in out
    assert ("8 px, 16 px" in out) == bool(sizes)


def test_arrays_that_are_named_are_those_that_are_stored(source: Path, tmp_path: Path) -> None:
    """So are the default squares of a new store, and of one of squares alone."""
    store = tmp_path / "store"
    assert resolve_arrays(options_of(source, store)).store_options.sizes == (72, 224, 288)
    prepare_inline(source, str(store), sizes=(8,), serves=16, **SMALL)
    assert resolve_arrays(options_of(source, store)).store_options.sizes == (72, 224, 288)
    prepare_inline(source, str(store), sizes=(8,), encoded=("original",), **SMALL)
    for arrays in ({"sizes": (24,)}, {"encoded": ("jpeg:24@80",)}):
        options = options_of(source, store, **arrays)
        assert resolve_arrays(options) is options


@pytest.mark.parametrize(
    ("encoded", "sizes", "named"),
    [
        (("jpeg:16@90", "original"), (8, 32), "original"),
        (("jpeg:16@90",), (8, 32), "jpeg:16@90"),
        (("jpeg:16@90",), (16, 32), ""),
        (("jpeg:16@90",), (32, 32), ""),
        ((), (8, 32), ""),
    ],
)
def test_enlarged_squares_are_noticed_where_encoded_rows_have_more_detail(
    source: Path, tmp_path: Path, encoded: tuple[str, ...], sizes: tuple[int, int], named: str
) -> None:
    """A network of 32 px is fed with stored squares, as before, but not in silence."""
    store = tmp_path / "store"
    prepare_inline(source, str(store), sizes=(8, 16), encoded=encoded, **SMALL)
    recipe = SimpleNamespace(encoded=None, stored_size=sizes[0], input_size=sizes[1])
    notice = _enlargement_notice(open_objects(str(store)), "train", recipe)  # type: ignore[arg-type]
    assert notice.endswith(f"pass --encoded {named}.") if named else not notice


def test_the_arrays_of_an_unfinished_or_damaged_store_are_those_of_its_commits(
    source: Path, tmp_path: Path
) -> None:
    """The same command goes on where a run was broken off; the run itself mends or names damage."""
    store = tmp_path / "store"
    arrays = {"sizes": (8, 16), "encoded": ("original",)}
    objects, _, work = plan_inline(source, str(store), **arrays, **SMALL)
    prepare_shard(work, 0)
    objects.end()
    expected = ("8", "16", "original")
    assert resolve_arrays(options_of(source, store)).store_options.array_names == expected
    prepare_inline(source, str(store), **arrays, **SMALL)
    (store / layout.done("train")).write_bytes(b"{")
    assert resolve_arrays(options_of(source, store)).store_options.array_names == expected
    (store / layout.plan("train")).write_bytes(b"{")
    resolved = resolve_arrays(options_of(source, store))
    assert resolved.store_options.array_names == ("original",)
