"""Tests that a rank refuses code or a torch that differ from the command's."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from cluster.ranks.rank_process import Rank
from pipeline import code_digest
from pipeline.errors import TesseraeError
from workflows.training import loop
from workflows.training.loop import TrainingJob, train
from workflows.training.stage import Data
from workflows.wgan.options import WganOptions

RANK = Rank(rank=0, world=1, generation=1, host="127.0.0.1", gpu=False)


@pytest.mark.parametrize(
    ("versions", "says"),
    [
        ({"code": "0" * 32}, "another version of Tesserae than the command"),
        (
            {"code": code_digest.running_code_digest(), "torch": "1.0"},
            "and 1.0 where the command runs",
        ),
    ],
)
def test_a_rank_with_other_code_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, versions: dict[str, Any], says: str
) -> None:
    """A rank checks its code before it opens anything, since a worker may join late."""
    monkeypatch.setattr(loop, "RunFolder", None)
    job = TrainingJob("x:y", str(tmp_path), WganOptions(), cast(Data, None), None, **versions)
    with pytest.raises(TesseraeError, match=says):
        train(RANK, job)


def test_a_build_for_other_devices_is_the_same_torch() -> None:
    """The local version after `+` names a build, and does not count."""
    public = loop.version("torch").partition("+")[0]
    loop._check_torch(f"{public}+cu999")
    loop._check_torch("")
