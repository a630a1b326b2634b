"""The data of a store's report, collected from a damaged store."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.store import layout
from tests.images import SMALL, make_folder, prepare_inline
from workflows.reports.store_report import report_store


def test_a_split_without_a_plan_is_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The other split is reported as before."""
    store = tmp_path / "store"
    for split in ("train", "val"):
        source = make_folder(tmp_path / "source" / split, 5)
        prepare_inline(source.parent, str(store), split=split, **SMALL)
    for name in (layout.plan("train"), layout.ledger("train")):
        (store / name).unlink()
    capsys.readouterr()
    report_store(str(store), {})
    output = capsys.readouterr().out
    assert "val: finished, 5 rows" in output
    assert "train: " not in output
    assert (store / layout.REPORT).exists()
