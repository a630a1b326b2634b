"""A folder in a repository of the hub, for which a stub of its protocol stands in."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.errors import TesseraeError
from tests.commands import ROOT
from tests.workflows.transfer.hub_stub import Hub, serve_hub
from workflows.transfer import hub_folder
from workflows.transfer.manifest import MANIFEST, files_of
from workflows.transfer.push import MARK
from workflows.transfer.remote_folder import open_remote_folder

pytest.importorskip("huggingface_hub")

URL = "hf://datasets/me/set"


@pytest.fixture
def hub() -> Iterator[Hub]:
    """Return a running hub without repositories."""
    with serve_hub() as running:
        yield running


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with a card and five files."""
    root = tmp_path / "folder"
    (root / "data").mkdir(parents=True)
    (root / "README.md").write_text("---\nlicense: cc-by-4.0\n---\n\n# Images\n")
    for number in range(5):
        (root / "data" / f"train-{number}.parquet").write_bytes(bytes([number]) * 1000)
    return root


def tesserae(hub: Hub, scratch: Path, *words: object) -> subprocess.CompletedProcess[str]:
    """Run a command in a process of its own, since the library reads the hub's address once."""
    environment = {
        "HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_TOKEN": "hf_x", "HF_HOME": str(scratch),
        "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "NO_PROXY": "127.0.0.1",
    }  # fmt: skip
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, *map(str, words)],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )


PROGRAM = """
import sys
from workflows.cli import main
from workflows.transfer import hub_folder, remote_folder
hub_folder.HubFolder.files_at_once = 2
remote_folder.PAUSE_SECONDS = 0.01
sys.exit(main())
"""


def contents(root: Path) -> dict[str, bytes]:
    return {name: (root / name).read_bytes() for name in files_of(root)}


def test_a_repository_is_pushed_and_pulled(hub: Hub, folder: Path, tmp_path: Path) -> None:
    """It is created private; files go in few commits, and the manifest after them."""
    pushed = tesserae(hub, tmp_path, "push", folder, URL)
    assert (pushed.returncode, pushed.stderr) == (0, "")
    assert hub.private == {"datasets/me/set": True}
    assert [len(commit) for commit in hub.commits] == [1, 2, 2, 2, 1, 0]
    assert (hub.commits[0], hub.commits[-2]) == ([MARK], [MANIFEST])

    pulled = tesserae(hub, tmp_path, "pull", URL, tmp_path / "copy")

    assert (pulled.returncode, pulled.stderr) == (0, "")
    assert contents(tmp_path / "copy") == contents(folder)
    assert "; 0 of them" in tesserae(hub, tmp_path, "push", folder, URL).stdout


def test_a_push_continues_after_the_hub_has_refused(hub: Hub, folder: Path, tmp_path: Path) -> None:
    """Commits that were made are not made again; what is not complete cannot be pulled."""
    hub.fail_after = 2  # the mark, and two files
    refused = tesserae(hub, tmp_path, "push", folder, f"{URL}/sub")
    assert refused.returncode == 1
    assert f"cannot write data/train-1.parquet to {URL}/sub" in refused.stderr
    assert tesserae(hub, tmp_path, "pull", f"{URL}/sub", tmp_path / "copy").returncode == 1
    hub.fail_after = None

    again = tesserae(hub, tmp_path, "push", folder, f"{URL}/sub")

    assert (again.returncode, again.stderr) == (0, "")
    assert "; 4 of them" in again.stdout
    assert set(hub.files["datasets/me/set"]) == {
        f"sub/{name}" for name in (MANIFEST, *contents(folder))
    }
    assert tesserae(hub, tmp_path, "pull", f"{URL}/sub", tmp_path / "copy").returncode == 0
    assert contents(tmp_path / "copy") == contents(folder)


@pytest.mark.parametrize("url", ["hf://datasets/me", "hf://me", "hf://", "hf://datasets//set"])
def test_a_url_without_a_repository_is_refused(url: str) -> None:
    """Before anything is asked of the hub."""
    with pytest.raises(TesseraeError, match="names no repository"):
        open_remote_folder(url)


def test_kinds_and_revisions_of_repositories() -> None:
    """A model has no prefix, and a folder may follow the name."""
    for url, expected in {
        "hf://datasets/me/set": ("dataset", "me/set", None, ""),
        "hf://me/net@v2/a/b": ("model", "me/net", "v2", "a/b"),
        "hf://spaces/me/page/": ("space", "me/page", None, ""),
    }.items():
        opened = open_remote_folder(url)
        assert isinstance(opened, hub_folder.HubFolder)
        found = (opened._kind, opened._repository, opened._revision, opened._prefix)
        assert found == expected
