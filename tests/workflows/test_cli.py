"""Tests of the command line: misspelt words are named together with the likely correct one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from workflows.cli import COMMANDS, main

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ("prepar a b", "'prepar' is not a command (did you mean prepare?)"),
        (
            "prepare a b --spilt x --zzz",
            "no option --spilt (did you mean --split?), no option --zzz.",
        ),
        ("prepare a b --spilt=x", "no option --spilt (did you mean --split?)"),
        ("prepare a b c", "unexpected argument 'c'. See `tesserae prepare --help`"),
        ("cluster up --worker 3", "(did you mean --workers?). See `tesserae cluster up --help`"),
        ("prepare", "required: SOURCE, STORE. See `tesserae prepare --help`"),
    ],
)
def test_a_misspelt_word_is_named_by_the_command_that_it_was_for(
    words: str, error: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """An option of `cluster up` is none of `cluster`, whose help text does not have it."""
    assert main(words.split()) == 1
    err = capsys.readouterr().err
    assert error in err
    assert err.count("\n") == 1


def make(*words: str) -> subprocess.CompletedProcess[str]:
    # `make test ARGS=...` would hand its variables on to a make that a test starts.
    env = {"PATH": os.environ["PATH"]}
    return subprocess.run(
        ["make", "--dry-run", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env=env,
    )


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (
            ["prepare", "DATA=a", "STORE=b", "SIZE=224"],
            "there is no variable SIZE: did you mean SIZES?",
        ),
        (["help", "NOSUCH=1"], "there is no variable NOSUCH? `make help` lists them."),
        (["prepare"], "prepare needs DATA STORE: make prepare DATA=/path/to/ILSVRC2012 STORE="),
        (
            ["features", "TRUNK=t"],
            "features needs STORE: make features STORE=/path/to/store TRUNK=t",
        ),
    ],
)
def test_make_refuses_what_it_would_pass_over(words: list[str], error: str) -> None:
    """A misspelt variable makes nothing of what was meant, in silence."""
    ended = make(*words)
    assert ended.returncode == 2
    assert error in ended.stderr


def test_make_passes_its_variables_on() -> None:
    """Each of them to the option of its name; no --split, so that the command's default holds."""
    ended = make("prepare", "DATA=a b", "STORE=c", "SIZES=72 224", "WORKERS=3", "ARGS=--limit 5")
    assert ended.returncode == 0, ended.stderr
    command = next(line for line in ended.stdout.splitlines() if "tesserae prepare" in line)
    words = command.split()
    assert '"a b" "c"' in command
    assert "--split" not in words
    assert command.count("--sizes 72 224") == command.count("--workers 3") == 1
    assert command.endswith("--limit 5")


def test_every_command_has_a_target_or_is_in_the_list_of_make_help() -> None:
    """A person who only knows `make help` reaches them all."""
    text = (ROOT / "Makefile").read_text()
    lacking = [name for name in COMMANDS if f"$(TESSERAE) {name}" not in text]
    assert lacking == []


@pytest.mark.parametrize(
    ("words", "command"),
    [
        (["study", "STUDY=gaussians", "ARGS=--seeds 2"], "study gaussians --seeds 2"),
        (
            ["study", "STUDY=devise", "STORE=s", "WORDS=w"],
            'study devise --store "s" --word-vectors "w"',
        ),
        (["export", "RUN=r", "ARGS=-o out"], 'export "r" -o out'),
        (["sample-images", "RUN=r", "ARGS=-n 4"], 'sample-images "r" -n 4'),
    ],
)
def test_make_reaches_what_is_made_of_a_run(words: list[str], command: str) -> None:
    """The command as a person would type it."""
    ended = make(*words)
    assert ended.returncode == 0, ended.stderr
    output_lines = [" ".join(line.split()) for line in ended.stdout.splitlines()]
    assert f".venv/bin/tesserae {command}" in output_lines


HELP = """
import contextlib, io, sys
from workflows.cli import main
out = io.StringIO()
with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
    main([*sys.argv[1:], "--help"])
assert out.getvalue().startswith("usage: tesserae"), out.getvalue()
heavy = "torch dask distributed zarr pyarrow scipy transformers gensim faiss rich cryptography"
print(*[name for name in heavy.split() if name in sys.modules])
"""


@pytest.mark.parametrize(
    "words", [*COMMANDS, "train wgan", "train colourise", "train devise", "cluster up"]
)
def test_help_loads_nothing_that_a_machine_may_lack(words: str) -> None:
    """Nor anything that takes longer to load than a person waits for a help text."""
    command = [sys.executable, "-c", HELP, *words.split()]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == ""
