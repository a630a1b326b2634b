"""What everything stands on: who may import whom, what is required, what `make` offers."""

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
    "bench", "chaos", "clean", "cluster-down", "cluster-status", "cluster-up", "colourise",
    "demo", "devise", "docs", "doctor", "export", "features", "help", "info", "lint", "loader",
    "pictures", "prepare", "repair", "report", "sample", "sample-images", "search", "setup",
    "study", "test", "test-all", "verify", "wgan", "words",
}  # fmt: skip


def _make(folder, *words):
    """Run the project's Makefile in *folder*, where it can do no harm."""
    shutil.copy(ROOT / "Makefile", folder)
    return subprocess.run(
        ["make", "PYTHON=true", *words], cwd=folder, capture_output=True, text=True,
        check=False, timeout=60, env={"PATH": "/usr/local/bin:/usr/bin:/bin"},
    )  # fmt: skip


def test_make_alone_lists_every_target_with_what_it_is_for(tmp_path):
    """`make` and `make help` are the same."""
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


def test_no_target_is_a_file():
    """A file named `test` or `demo` would silence its target."""
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
        (["loader", "STORE=/s", "ARGS=--cold"], 'loader "/s" --cold'),
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
        (
            ["devise", "STORE=/s", "TRUNK=/t", "WORDS=/w", "RUN=/r"],
            'train devise "/s" --trunk "/t" --words "/w" --run "/r"',
        ),
        (["features", "STORE=/s", "TRUNK=/t", "GPUS=1"], 'features "/s" --trunk "/t" --gpus 1'),
        (["search", "RUN=/r", "ARGS=--port 9"], 'search "/r" --serve --port 9'),
        (["words", "STORE=/s", "WORDS=/w"], 'words "/s" --vectors "/w"'),
        (["report", "RUN=/r", "ARGS=--samples 9"], 'report "/r" --samples 9'),
        (
            ["prepare", "DATA=/a", "STORE=/s", "SPLIT=val", "CLUSTER=ssh:/h", "CERTS=/c d"],
            'prepare "/a" "/s" --split val --cluster "ssh:/h" --certs "/c d"',
        ),
    ],
)
def test_a_target_is_one_command(tmp_path, words, command):
    """Shown as it runs; paths may hold spaces."""
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
def test_what_is_not_passed_is_asked_for_before_anything_is_made(tmp_path, words, says):
    """One sentence, with the line to type."""
    done = _make(tmp_path, *words)

    assert done.returncode
    assert says in done.stderr
    assert done.stdout == ""


def test_every_requirement_was_tested_in_one_version():
    """Whatever pyproject.toml names has its line in constraints.txt; Pillow has its own door."""
    named = [
        *PROJECT["project"]["dependencies"],
        *(r for some in PROJECT["project"]["optional-dependencies"].values() for r in some),
        *(r for group in PROJECT["dependency-groups"].values() for r in group),
    ]
    pinned = re.findall(r"^([\w.-]+)==", (ROOT / "constraints.txt").read_text(), re.MULTILINE)

    names = {re.match(r"[\w.-]+", requirement)[0].lower() for requirement in named}

    assert names - {name.lower().replace("_", "-") for name in pinned} == {"pillow"}


def test_torch_is_required_by_loading_and_training_alone():
    """Preparing installs without it; the loader, stages and their tests need it."""
    extras = PROJECT["project"]["optional-dependencies"]

    assert [name for name, some in extras.items() if "torch>" in str(some)] == ["train"]
    assert "torch" not in str(PROJECT["project"]["dependencies"])


@pytest.mark.parametrize(
    "module",
    [
        "pipeline.images.decode",
        "pipeline.images.resize",
        "pipeline.sources.reader",
        "pipeline.store.shard",
        "pipeline.ingest.shard",
    ],
)
def test_a_worker_loads_only_what_it_works_with(module):
    """Each of these would cost every worker CPU before its first picture."""
    if not list(ROOT.glob(module.replace(".", "/") + "*")):
        pytest.skip(f"there is no {module}")
    heavy = ("torch", "zarr", "rich", "bokeh", "pandas", "skimage", "scipy", "s3fs", "distributed")
    code = f"import sys, {module}; print(*(name for name in {heavy} if name in sys.modules))"

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


def test_the_imports_keep_to_their_contracts():
    """The same as `make lint` asks."""
    status, said = _lint_imports(ROOT)

    assert status == 0, said


BREACHES = {
    "workflows run on": ("cluster/local.py", "import pipeline.errors"),
    "workflows run on pipeline": ("pipeline/order.py", "import cluster"),
    "the data path": ("pipeline/errors.py", "import pipeline.order"),
    "the data path reads": ("pipeline/store/arrays.py", "import pipeline.sources.keys"),
    "a store knows": ("pipeline/store/arrays.py", "import pipeline.images.decode"),
    "and every module of it has a place": ("pipeline/odds.py", "import json"),
    "who prepares": ("pipeline/ingest/shard.py", "import torch"),
    "zarr enters": ("pipeline/ingest/shard.py", "import zarr"),
    "Pillow enters": ("pipeline/store/arrays.py", "import PIL.Image"),
    "Dask enters": ("pipeline/sources/reader.py", "import distributed"),
    "the environment is made": ("workflows/setup/pillow.py", "import numpy"),
}


@pytest.mark.slow
@pytest.mark.parametrize("contract", BREACHES)
def test_a_contract_that_is_broken_is_named(tmp_path, contract):
    """A contract that nothing can break guards nothing."""
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


def test_no_module_is_named_for_nothing():
    """A function without a home has not been understood yet."""
    names = {path.stem for part in ("pipeline", "workflows", "cluster")
             for path in (ROOT / part).rglob("*.py")}  # fmt: skip

    assert not names & {"utils", "util", "common", "helpers", "misc"}
