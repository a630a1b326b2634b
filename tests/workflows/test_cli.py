"""The command line names unknown words together with the likely correct ones."""

import ast
import errno
import importlib.metadata
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from pipeline.installation import EXTRAS
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
def test_unknown_arguments_are_reported_by_the_subcommand(
    words: str, error: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """An error of `cluster up` refers to its own help text, not to that of `cluster`."""
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
def test_make_refuses_unknown_variables(words: list[str], error: str) -> None:
    """A misspelt variable would otherwise be ignored silently."""
    ended = make(*words)
    assert ended.returncode == 2
    assert error in ended.stderr


def test_make_passes_its_variables_on() -> None:
    """Each variable becomes the option of its name; without SPLIT there is no --split."""
    ended = make("prepare", "DATA=a b", "STORE=c", "SIZES=72 224", "WORKERS=3", "ARGS=--limit 5")
    assert ended.returncode == 0, ended.stderr
    command = next(line for line in ended.stdout.splitlines() if "tesserae prepare" in line)
    words = command.split()
    assert '"a b" "c"' in command
    assert "--split" not in words
    assert command.count("--sizes 72 224") == command.count("--workers 3") == 1
    assert command.endswith("--limit 5")


def test_every_command_has_a_make_target() -> None:
    """A user who only knows `make help` can reach all commands."""
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
        (["study", "STUDY=parity", "DATA=d", "STORE=s"], 'study parity --source "d" --store "s"'),
        (
            ["study", "STUDY=cut", "STORE=s", "TRUNK=t", "WORDS=w"],
            'study cut --store "s" --trunk "t" --word-vectors "w"',
        ),
        (["export", "RUN=r", "ARGS=-o out"], 'export "r" -o out'),
        (["sample-images", "RUN=r", "ARGS=-n 4"], 'sample-images "r" -n 4'),
    ],
)
def test_make_targets_run_the_command_of_their_name(words: list[str], command: str) -> None:
    """The command is the one that a user would type."""
    ended = make(*words)
    assert ended.returncode == 0, ended.stderr
    output_lines = [" ".join(line.split()) for line in ended.stdout.splitlines()]
    assert f".venv/bin/tesserae {command}" in output_lines


HELP = """
import contextlib, io, sys
from workflows.cli import main
heavy = "torch dask distributed zarr pyarrow scipy transformers gensim faiss rich jinja2"
heavy += " cryptography"
for words in sys.argv[1:]:
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        main([*words.split(), "--help"])
    assert out.getvalue().startswith("usage: tesserae"), out.getvalue()
    print(words, *[name for name in heavy.split() if name in sys.modules])
"""


def test_help_imports_no_optional_or_slow_library() -> None:
    """The help text must appear at once, on any machine. One process prints those of all."""
    training = [f"train {stage}" for stage in ("wgan", "classify", "colourise", "devise")]
    commands = [*COMMANDS, *training, "cluster up"]
    command = [sys.executable, "-c", HELP, *commands]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert ended.stdout.splitlines() == commands


def installed_with_tesserae() -> set[str]:
    """Return the packages that an installation without extras brings, as they are imported."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pending = [canonicalize_name(Requirement(line).name) for line in project["dependencies"]]
    distributions: set[str] = set()
    while pending:
        name = pending.pop()
        if name in distributions:
            continue
        distributions.add(name)
        for line in importlib.metadata.requires(name) or []:
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                pending.append(canonicalize_name(requirement.name))
    return {
        module
        for module, names in importlib.metadata.packages_distributions().items()
        if distributions & set(map(canonicalize_name, names))
    }


def test_an_extra_is_named_for_every_package_that_a_module_needs() -> None:
    """A command whose module cannot be imported says what to install, and has no traceback."""
    imported = set()
    for file in (file for folder in ("pipeline", "workflows", "cluster")
                 for file in (ROOT / folder).rglob("*.py")):  # fmt: skip
        for node in ast.parse(file.read_text()).body:
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add(str(node.module).partition(".")[0])
    ours = {"pipeline", "workflows", "cluster", "tesserae_command"}
    optional = imported - ours - set(sys.stdlib_module_names) - installed_with_tesserae()
    assert optional >= {"torch", "safetensors"}
    assert optional <= set(EXTRAS)


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (OSError(errno.ENOSPC, "full", "a/b"), "a/b: full. Free some space."),
        (OSError(errno.ENOSPC, "full"), "full. Free some space."),
        (OSError(errno.EACCES, "denied", "a"), "a: denied"),
    ],
)
def test_an_error_of_the_system_is_one_sentence(
    error: OSError,
    sentence: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A full disk is told as such, wherever it was met."""

    def fail(words: object) -> int:
        raise error

    monkeypatch.setattr("workflows.cli.dispatch", fail)
    assert main(["info", "x"]) == 1
    assert capsys.readouterr().err == f"tesserae: {sentence}\n"
