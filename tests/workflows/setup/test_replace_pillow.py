"""Pillow-SIMD in the place of Pillow, in an environment that pip made."""

from pathlib import Path

import pytest

from pipeline.errors import TesseraeError
from workflows.setup import detect_pillow, replace_pillow
from workflows.setup.environment import Environment, SetupError


@pytest.fixture
def prefix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of an environment, as if pip had made the running one."""
    monkeypatch.setattr(replace_pillow, "uses_make", lambda: False)
    monkeypatch.setattr(detect_pillow, "why_stock", lambda preference: "")
    folder = tmp_path / "venv"
    folder.mkdir()
    (folder / "pyvenv.cfg").touch()
    return folder


def test_pillow_is_removed_only_after_the_other_was_compiled(
    prefix: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A compiler that fails leaves an environment that works."""
    steps: list[tuple[str, ...]] = []

    def pip(self: Environment, step: str, *words: str, **env: object) -> None:
        assert self.folder == prefix
        steps.append(words)
        if words[0] == "wheel":
            raise SetupError("cc1: out of memory")

    monkeypatch.setattr(Environment, "pip", pip)
    with pytest.raises(TesseraeError, match="out of memory"):
        replace_pillow.replace_pillow(prefix)
    assert [words[0] for words in steps] == ["wheel"]


@pytest.mark.parametrize(
    ("what", "sentence"),
    [
        ("make", "run `make setup PILLOW=simd`"),
        ("system", "is no virtual environment"),
        ("headers", "cannot be compiled, because tiff.h is missing"),
    ],
)
def test_an_environment_that_cannot_have_it_is_left_as_it_is(
    prefix: Path, monkeypatch: pytest.MonkeyPatch, what: str, sentence: str
) -> None:
    """The reason is said before anything is removed."""
    monkeypatch.setattr(Environment, "pip", lambda *words, **env: pytest.fail(str(words)))
    if what == "make":
        monkeypatch.setattr(replace_pillow, "uses_make", lambda: True)
    elif what == "system":
        (prefix / "pyvenv.cfg").unlink()
    else:
        monkeypatch.setattr(detect_pillow, "why_stock", lambda preference: "tiff.h is missing")
    with pytest.raises(TesseraeError, match=sentence):
        replace_pillow.replace_pillow(prefix)
    assert not (prefix / "wheels").exists()
