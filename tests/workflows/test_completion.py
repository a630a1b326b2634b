"""The script of `tesserae completion`, in a real shell."""

import shutil
import subprocess
from pathlib import Path

import pytest

from workflows.cli import COMMANDS, main

COMPLETE = """
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
_shtab_tesserae
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the script for bash."""
    file = tmp_path_factory.mktemp("completion") / "tesserae"
    with pytest.MonkeyPatch.context() as patch, file.open("w") as out:
        patch.setattr("sys.stdout", out)
        assert main(["completion", "bash"]) == 0
    return file


def complete(script: Path, *words: str, folder: Path) -> set[str]:
    """Return what bash offers for the last word."""
    done = subprocess.run(
        ["bash", "-u", "-c", COMPLETE, "bash", str(script), *words],
        cwd=folder, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stderr == ""
    return set(done.stdout.split())


def test_bash_completes_commands_options_and_choices(script: Path, tmp_path: Path) -> None:
    """A stage of training is a command of its own, with its options."""
    assert complete(script, "tesserae", "", folder=tmp_path) >= set(COMMANDS)
    assert complete(script, "tesserae", "ver", folder=tmp_path) == {"verify"}
    assert complete(script, "tesserae", "prepare", "--max-b", folder=tmp_path) == {"--max-bad"}
    stages = complete(script, "tesserae", "train", "", folder=tmp_path)
    assert {"wgan", "devise", "superres"} <= stages
    options = complete(script, "tesserae", "train", "superres", "--degr", folder=tmp_path)
    assert options == {"--degradation"}
    words = ("tesserae", "train", "superres", "--network", "fsr")
    assert complete(script, *words, folder=tmp_path) == {"fsrcnn"}


def test_bash_completes_files_and_folders(script: Path, tmp_path: Path) -> None:
    """A store is a folder; a source may be an archive."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data.tar").touch()
    assert complete(script, "tesserae", "verify", "da", folder=tmp_path) == {"data"}
    assert complete(script, "tesserae", "prepare", "da", folder=tmp_path) == {"data", "data.tar"}


@pytest.mark.parametrize("shell", ["zsh", "fish", "tcsh"])
def test_other_shells_accept_their_script(
    shell: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The shell parses it, if it is installed."""
    assert main(["completion", shell]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in COMMANDS)
    if program := shutil.which(shell):
        file = tmp_path / "script"
        file.write_text(text)
        subprocess.run([program, "-n", str(file)], check=True)


def test_an_unknown_shell_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """The choices are named."""
    assert main(["completion", "csh"]) == 1
    assert "choose from bash, zsh, fish, tcsh" in capsys.readouterr().err.replace("'", "")
