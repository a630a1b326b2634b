"""What `tesserae --version` prints for a report of a defect."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pipeline.installation import ROOT
from workflows.cli import main
from workflows.setup import version


def test_the_version_names_what_a_report_of_a_defect_needs(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The version comes first, so that a program may read it."""
    assert main(["--version"]) == 0
    first, *rest = capsys.readouterr().out.splitlines()
    assert first == "tesserae 0.1.0"
    text = "\n".join(rest)
    for part in (str(ROOT), sys.prefix, f"numpy {np.__version__}", "pillow", "Linux"):
        assert part in text


def test_nothing_heavy_is_imported() -> None:
    """A broken package must not hide the versions."""
    code = (
        "import sys; from workflows.cli import main; main(['--version']);"
        "sys.exit(str({'torch', 'numpy', 'PIL', 'dask'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.stderr.strip() == "set()"


def test_the_commit_of_a_checkout_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of `site-packages` has none."""
    monkeypatch.setattr(version, "ROOT", tmp_path)
    assert ", commit" not in version.version_text()
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "init", "--quiet"], check=True)
    subprocess.run([*git, "commit", "--quiet", "--allow-empty", "-m", "one"], check=True)
    done = subprocess.run(
        [*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=True
    )
    assert f"in {tmp_path}, commit {done.stdout.strip()}" in version.version_text()
