"""The training script of the README, run as printed there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands import ROOT
from tests.images import make_folder, prepare_inline


@pytest.mark.slow
def test_the_readmes_script_trains_on_two_ranks(tmp_path: Path) -> None:
    """Both ranks run three epochs in step."""
    readme = (ROOT / "README.md").read_text()
    (script,) = re.findall(r"```python\n(import torch\n.*?)```", readme, re.DOTALL)
    assert '"demo/store"' in script
    make_folder(tmp_path / "train", 140, bad=2)
    prepare_inline(tmp_path / "train", str(tmp_path / "demo/store"), sizes=(72,))
    (tmp_path / "train.py").write_text(script)
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--standalone")
    ended = subprocess.run(
        [*torchrun, "--nproc-per-node", "2", "train.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ended.returncode == 0, ended.stderr
    ranks_and_epochs = re.findall(r"rank (\d), epoch (\d): loss \d", ended.stdout)
    assert sorted(ranks_and_epochs) == [(rank, epoch) for rank in "01" for epoch in "012"]
