"""Which Tesserae this is: every source file of every tree counts."""

import importlib
from pathlib import Path

import pytest

from pipeline import identity
from pipeline.errors import StoreMismatchError
from tests.commands import ROOT


def test_every_tree_of_this_process_has_a_digest() -> None:
    """Of its own, and all together one."""
    assert set(identity.trees()) == {"pipeline", "workflows", "cluster"}
    assert len(set(identity.trees().values())) == 3
    assert all(digest == identity.digest_of(ROOT / t) for t, digest in identity.trees().items())


def test_every_file_counts_by_name_and_bytes(tmp_path: Path) -> None:
    """One that is changed, moved, added or taken away."""
    seen = [identity.digest_of(tmp_path)]
    for name, text in (("a.py", "1"), ("a.py", "2"), ("b/c.py", "1"), ("b/d.py", "")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
        seen.append(identity.digest_of(tmp_path))
    (tmp_path / "a.py").rename(tmp_path / "e.py")
    seen.append(identity.digest_of(tmp_path))
    assert len(set(seen)) == len(seen)
    (tmp_path / "notes.txt").write_text("no code")
    assert identity.digest_of(tmp_path) == seen[-1]


@pytest.mark.parametrize("tree", identity.TREES)
def test_a_run_of_other_code_is_refused(monkeypatch: pytest.MonkeyPatch, tree: str) -> None:
    """In whichever tree it differs; what says nothing of its code is let through."""
    code = identity.digest()
    identity.check(code)
    identity.check("")
    monkeypatch.setattr(identity, "_DIGESTS", identity.trees() | {tree: "another"})
    with pytest.raises(StoreMismatchError, match="another Tesserae than where the run was begun"):
        identity.check(code)


def test_files_that_change_while_a_process_runs_do_not_change_what_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It runs the code that it has read."""
    before = identity.digest()
    monkeypatch.setattr(identity, "digest_of", lambda folder: "changed")
    assert identity.digest() == before
    assert importlib.import_module("pipeline.identity") is identity
