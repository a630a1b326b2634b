"""The project as a whole: its imports, its requirements and its make targets."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
TARGETS = {
    "bench", "chaos", "classify", "classify-images", "clean", "cluster-down", "cluster-status",
    "cluster-up", "colourise", "completion", "demo", "devise", "docs", "doctor", "export",
    "features", "help", "info", "lint", "loader", "pictures", "prepare", "pull", "push",
    "repair", "report", "sample", "sample-images", "search", "setup", "study", "superres",
    "test", "test-all", "tune", "upscale", "verify", "wgan", "wheel", "words",
}  # fmt: skip


def _make(folder, *words):
    """Run the project's Makefile in a temporary folder."""
    shutil.copy(ROOT / "Makefile", folder)
    return subprocess.run(
        ["make", "PYTHON=true", *words], cwd=folder, capture_output=True, text=True,
        check=False, timeout=60, env={"PATH": "/usr/local/bin:/usr/bin:/bin"},
    )  # fmt: skip


def test_make_without_a_target_prints_the_help(tmp_path):
    """The help lists every target with its description, and all variables."""
    done = _make(tmp_path)

    listed = dict(re.findall(r"^  ([a-z-]+) +(\S.*)$", done.stdout, re.MULTILINE))
    assert done.returncode == 0
    assert set(listed) == TARGETS
    assert done.stdout == _make(tmp_path, "help").stdout
    knobs = {
        "DATA",
        "STORE",
        "SPLIT",
        "SIZES",
        "WORKERS",
        "CLUSTER",
        "CERTS",
        "ARGS",
        "RUN",
        "GPUS",
    }
    assert knobs <= set(done.stdout.split())


def test_every_target_is_phony():
    """A file named `test` or `demo` would otherwise disable its target."""
    text = (ROOT / "Makefile").read_text()

    phony = set(" ".join(re.findall(r"^\.PHONY: (.*)$", text, re.MULTILINE)).split())

    assert set(re.findall(r"^([.a-z-]+):(?!=)", text, re.MULTILINE)) <= phony | {".PHONY"}


@pytest.mark.parametrize(
    ("words", "command"),
    [
        (["demo"], "demo "),
        (["demo", "DATA=/a b"], 'demo --data "/a b"'),
        (["verify", "STORE=/a b", "ARGS=--source"], 'verify "/a b" --source'),
        (["repair", "STORE=/s"], 'repair "/s"'),
        (["info", "STORE=/s", "ARGS=--json"], 'info "/s" --json'),
        (["loader", "STORE=/s", "ARGS=--drop-cache"], 'loader "/s" --drop-cache'),
        (["cluster-up", "WORKERS=2"], "cluster up --workers 2"),
        (["cluster-status"], "cluster status"),
        (["cluster-down"], "cluster down"),
        (["repair", "STORE=/s", "CLUSTER=tls://h:8786"], 'repair "/s" --cluster "tls://h:8786"'),
        (["doctor"], "doctor"),
        (["sample"], 'sample "sample"'),
        (["sample", "DATA=/d", "ARGS=--images 9"], 'sample "/d" --images 9'),
        (
            ["prepare", "DATA=/a b", "STORE=/s", "SPLIT=val", "SIZES=72 224", "WORKERS=3"],
            'prepare "/a b" "/s" --split val --sizes 72 224 --workers 3',
        ),
        (
            [
                "wgan",
                "STORE=/s",
                "DATA=/a b",
                "RUN=/r",
                "GPUS=2",
                "CLUSTER=tls://h:1",
                "ARGS=--flip",
            ],
            'train wgan "/s" --data "/a b" --run "/r" --gpus 2 --cluster "tls://h:1" --flip',
        ),
        (["colourise", "STORE=/s"], 'train colourise "/s"'),
        (["superres", "STORE=/s"], 'train superres "/s"'),
        (["classify", "STORE=/s", "TRUNK=/t"], 'train classify "/s" --trunk "/t"'),
        (["classify-images", "DATA=/a b", "RUN=/r"], 'classify "/r" "/a b"'),
        (["upscale", "DATA=/a b", "RUN=/r"], 'upscale "/r" "/a b" --out upscaled'),
        (
            ["devise", "STORE=/s", "TRUNK=/t", "WORDS=/w", "RUN=/r"],
            'train devise "/s" --trunk "/t" --word-vectors "/w" --run "/r"',
        ),
        (["features", "STORE=/s", "TRUNK=/t", "GPUS=1"], 'features "/s" --trunk "/t" --gpus 1'),
        (["upscale", "STORE=/s", "RUN=/r"], 'upscale "/r" --store "/s" --size 288'),
        (["search", "RUN=/r", "ARGS=--port 9"], 'search "/r" --serve --port 9'),
        (["words", "STORE=/s", "WORDS=/w"], 'words "/s" --word-vectors "/w"'),
        (["report", "RUN=/r", "ARGS=--samples 9"], 'report "/r" --samples 9'),
        (
            ["prepare", "DATA=/a", "STORE=/s", "SPLIT=val", "CLUSTER=ssh:/h", "CERTS=/c d"],
            'prepare "/a" "/s" --split val --cluster "ssh:/h" --certs "/c d"',
        ),
    ],
)
def test_a_target_runs_one_command(tmp_path, words, command):
    """The command is shown as it runs, and paths may contain spaces."""
    shown = _make(tmp_path, "-n", *words).stdout.splitlines()[-1]

    assert " ".join(shown.split()) == f".venv/bin/tesserae {command}".strip()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["prepare"], "make prepare DATA=/path/to/ILSVRC2012 STORE=/path/to/store"),
        (["prepare", "DATA=/d"], "needs STORE: make prepare DATA=/d STORE=/path/to/store"),
        (["verify"], "make verify STORE=/path/to/store"),
    ],
)
def test_missing_make_variables_are_reported_before_setup(tmp_path, words, says):
    """The error is one sentence with the line to type."""
    done = _make(tmp_path, *words)

    assert done.returncode
    assert says in done.stderr
    assert done.stdout == ""


def test_every_requirement_is_pinned_in_the_constraints():
    """Every requirement of pyproject.toml is in constraints.txt, but Pillow, which setup pins."""
    named = [
        *PROJECT["project"]["dependencies"],
        *(r for some in PROJECT["project"]["optional-dependencies"].values() for r in some),
        *(r for group in PROJECT["dependency-groups"].values() for r in group),
    ]
    pinned = re.findall(r"^([\w.-]+)==", (ROOT / "constraints.txt").read_text(), re.MULTILINE)

    names = {re.match(r"[\w.-]+", requirement)[0].lower() for requirement in named}

    own = PROJECT["project"]["name"]  # an extra that consists of others
    unpinned = names - {name.lower().replace("_", "-") for name in pinned}
    assert unpinned == {"pillow", own}


def test_only_the_train_extra_requires_torch():
    """Preparation is installed without torch; the loader and all stages need it."""
    extras = PROJECT["project"]["optional-dependencies"]

    assert [name for name, some in extras.items() if "torch>" in str(some)] == ["train"]
    assert "torch" not in str(PROJECT["project"]["dependencies"])


def test_a_worker_imports_only_what_decoding_needs():
    """Each of these imports would cost every worker CPU time before its first image."""
    modules = (
        "pipeline.images.decode",
        "pipeline.images.resize",
        "pipeline.sources.reader",
        "pipeline.store.shard",
        "pipeline.ingest.shard_task",
    )
    heavy = ("torch", "zarr", "rich", "bokeh", "pandas", "skimage", "scipy", "s3fs", "distributed")
    code = (
        "import importlib, sys\n"
        f"for module in {modules}:\n"
        "    importlib.import_module(module)\n"
        f"    print(*(f'{{module}}: {{name}}' for name in {heavy} if name in sys.modules))"
    )

    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False,
        timeout=60,
    )  # fmt: skip

    assert (done.stdout.split(), done.stderr) == ([], "")


def _lint_imports(folder):
    tool = Path(sys.executable).parent / "lint-imports"
    done = subprocess.run(
        [tool, "--no-cache"], cwd=folder, capture_output=True, text=True, check=False, timeout=100
    )
    return done.returncode, done.stdout + done.stderr


def test_the_imports_satisfy_their_contracts():
    """`make lint` runs the same check."""
    status, said = _lint_imports(ROOT)

    assert status == 0, said


BREACHES = {
    "workflows run on": ("cluster/local.py", "import pipeline.errors"),
    "workflows run on pipeline": ("pipeline/order.py", "import cluster"),
    "the public interface": ("workflows/cluster_kinds.py", "import tesserae"),
    "the data path": ("pipeline/errors.py", "import pipeline.order"),
    "the data path reads": ("pipeline/store/arrays.py", "import pipeline.sources.keys"),
    "a store knows": ("pipeline/store/arrays.py", "import pipeline.images.decode"),
    "and every module of it has a place": ("pipeline/odds.py", "import json"),
    "who prepares": ("pipeline/ingest/shard_task.py", "import torch"),
    "zarr enters": ("pipeline/ingest/shard_task.py", "import zarr"),
    "Pillow enters": ("pipeline/store/arrays.py", "import PIL.Image"),
    "Dask enters": ("pipeline/sources/reader.py", "import distributed"),
    "the environment is made": ("workflows/setup/detect_pillow.py", "import numpy"),
}


@pytest.mark.slow
@pytest.mark.parametrize("contract", BREACHES)
def test_the_breach_of_a_contract_is_reported_by_its_name(tmp_path, contract):
    """A contract that cannot be broken would guard nothing."""
    for name in ("pipeline", "workflows", "cluster"):
        shutil.copytree(ROOT / name, tmp_path / name)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    path, line = BREACHES[contract]
    with (tmp_path / path).open("a") as file:
        file.write(f"\n\ndef breach():\n    {line}\n")

    status, said = _lint_imports(tmp_path)

    assert status
    broken = re.findall(r"^(.*) BROKEN", said, re.MULTILINE)
    assert len(broken) == 1, said
    assert contract in broken[0]


def test_the_image_gets_every_part_that_runs():
    """The image has all packages and what their build reads, and no command runs as root."""
    lines = (ROOT / "Containerfile").read_text().splitlines()

    copied = {name for line in lines if re.match("COPY [^-]", line) for name in line.split()[1:-1]}

    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests"}
    setup = {"constraints.txt", "pyproject.toml", "docs/pip.md", "LICENSE"}
    assert copied == {"tesserae.py", "tesserae_command.py", *packages, *setup}
    assert {line for line in lines if line.startswith("FROM")} == {
        "FROM debian:bookworm-slim",
        "FROM debian:bookworm-slim AS build",
    }
    assert lines.index("USER tesserae") < lines.index('ENTRYPOINT ["tesserae"]')


def test_no_module_is_called_utils_or_helpers():
    """A function without a proper module has not been understood yet."""
    names = {path.stem for part in ("pipeline", "workflows", "cluster")
             for path in (ROOT / part).rglob("*.py")}  # fmt: skip

    assert not names & {"utils", "util", "common", "helpers", "misc"}
