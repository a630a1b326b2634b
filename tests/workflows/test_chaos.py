"""Chaos for a minute and a half at twice its usual pace."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.ground import why_not
from tests.chaos.monkey import CALLS, FAULTS
from tests.chaos.play import Plan, play

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(why_not() is not None, reason=str(why_not())),
    pytest.mark.timeout(900),
]


def test_stores_prepared_under_faults_are_byte_identical(tmp_path: Path) -> None:
    """All frequent kinds of faults occur; `make chaos` has the rare ones, too."""
    calls = frozenset({CALLS["source.fail"], CALLS["disk.stall"]})
    plan = Plan(
        folder=tmp_path, seconds=90, seed=5, images=4_800, workers=3, pace=2, struck=calls
    )  # fmt: skip
    account = play(plan)
    assert account.stores >= 1
    assert account.stores == account.ends["finished"]
    often = {fault.name for fault in FAULTS if fault.every <= 40}
    assert often <= {name for name, count in account.faults.items() if count}
    assert all(account.struck[kind] for kind in calls)
