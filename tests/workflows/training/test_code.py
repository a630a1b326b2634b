"""A rank does nothing with other code, or another torch, than where its run was begun."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from cluster.ranks.process import Rank
from pipeline import code_digest
from pipeline.errors import TesseraeError
from workflows.training import loop
from workflows.training.loop import Data, Job, train
from workflows.wgan.options import Options

RANK = Rank(rank=0, world=1, generation=1, host="127.0.0.1", gpu=False)


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ({"code": "0" * 32}, "another Tesserae than where the run was begun"),
        ({"code": code_digest.digest(), "torch": "1.0"}, "and 1.0 where the run was begun"),
    ],
)
def test_a_rank_of_other_code_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: dict[str, Any], says: str
) -> None:
    """Before it opens anything: a worker may have come after all were asked."""
    monkeypatch.setattr(loop, "RunFolder", None)
    job = Job("x:y", str(tmp_path), Options(), cast(Data, None), None, **how)
    with pytest.raises(TesseraeError, match=says):
        train(RANK, job)


def test_a_build_for_other_devices_is_the_same_torch() -> None:
    """What follows the `+` is not its version."""
    public = loop.version("torch").partition("+")[0]
    loop._check_torch(f"{public}+cu999")
    loop._check_torch("")
