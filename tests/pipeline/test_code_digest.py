"""The digest of the code covers every source file of every tree."""

import importlib
from pathlib import Path

import pytest

from pipeline import code_digest
from pipeline.errors import StoreMismatchError
from tests.commands import ROOT


def test_every_tree_of_this_process_has_a_digest() -> None:
    """The digests of the three trees differ, and equal those of their folders."""
    assert set(code_digest.trees()) == {"pipeline", "workflows", "cluster"}
    assert len(set(code_digest.trees().values())) == 3
    assert all(
        digest == code_digest.folder_digest(ROOT / t) for t, digest in code_digest.trees().items()
    )


def test_every_file_counts_by_name_and_bytes(tmp_path: Path) -> None:
    """Changing, moving, adding or removing a file changes the digest."""
    seen = [code_digest.folder_digest(tmp_path)]
    for name, text in (("a.py", "1"), ("a.py", "2"), ("b/c.py", "1"), ("b/d.py", "")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
        seen.append(code_digest.folder_digest(tmp_path))
    (tmp_path / "a.py").rename(tmp_path / "e.py")
    seen.append(code_digest.folder_digest(tmp_path))
    assert len(set(seen)) == len(seen)
    (tmp_path / "notes.txt").write_text("no code")
    assert code_digest.folder_digest(tmp_path) == seen[-1]


@pytest.mark.parametrize("tree", code_digest.TREES)
def test_a_run_of_other_code_is_refused(monkeypatch: pytest.MonkeyPatch, tree: str) -> None:
    """A difference in any tree is refused; an empty digest is accepted."""
    code = code_digest.running_code_digest()
    code_digest.check_same_code(code)
    code_digest.check_same_code("")
    monkeypatch.setattr(code_digest, "_DIGESTS", code_digest.trees() | {tree: "another"})
    with pytest.raises(StoreMismatchError, match="another version of Tesserae than the command"):
        code_digest.check_same_code(code)


def test_files_changed_while_a_process_runs_do_not_change_its_digest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The process runs the code that it has read."""
    before = code_digest.running_code_digest()
    monkeypatch.setattr(code_digest, "folder_digest", lambda folder: "changed")
    assert code_digest.running_code_digest() == before
    assert importlib.import_module("pipeline.code_digest") is code_digest
