"""Tests of the wheel: it has every file of the packages, and runs without the checkout."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest

from workflows.setup.detect_pillow import PILLOW_SIMD, why_stock

ROOT = Path(__file__).parents[1]
PACKAGES = ("pipeline", "workflows", "cluster")
BUILD_INPUTS = ("tesserae.py", "tesserae_command.py", "pyproject.toml", "docs/pip.md", "LICENSE")

SNIPPET = """
import tesserae

reveal_type(tesserae.Loader("store", size=72))
tesserae.Laoder
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a wheel that was built from a copy of the checkout."""
    if int(version("setuptools").partition(".")[0]) < 77:
        pytest.skip("this environment's setuptools is older than the build needs")
    folder = tmp_path_factory.mktemp("build")
    for name in PACKAGES:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in BUILD_INPUTS:
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    options = ("--no-deps", "--no-build-isolation", "--no-index", "--quiet", "-w", "wheels")
    subprocess.run([sys.executable, "-m", "pip", "wheel", ".", *options], cwd=folder, check=True)
    (built,) = (folder / "wheels").glob("*.whl")
    return built


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a Python in whose environment the wheel alone is installed."""
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder)
    options = ("--no-deps", "--no-index", "--quiet")
    pip = [sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python")]
    subprocess.run([*pip, "install", *options, str(wheel)], check=True)
    return folder / "bin" / "python"


def run(*words: object, folder: Path) -> str:
    """Run a program with the libraries of this environment; return what it prints."""
    libraries = sysconfig.get_path("purelib")  # without the checkout, which a .pth file there names
    done = subprocess.run(
        list(map(str, words)),
        cwd=folder,
        env={**os.environ, "PYTHONPATH": libraries},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    return done.stdout


@pytest.mark.slow
def test_the_wheel_has_every_file(wheel: Path) -> None:
    """Settings, pages, templates and `py.typed` are in it, beside the modules."""
    files = {
        str(path.relative_to(ROOT))
        for name in PACKAGES
        for path in (ROOT / name).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.suffix not in (".c", ".so")
    }
    with zipfile.ZipFile(wheel) as archive:
        assert {"tesserae.py", "tesserae_command.py", *files} - set(archive.namelist()) == set()


@pytest.mark.slow
def test_an_installed_wheel_runs(python: Path, tmp_path: Path) -> None:
    """It runs as a module, as the script that pip creates, and as a library."""
    assert run(python, "-m", "tesserae", "--version", folder=tmp_path).startswith("tesserae ")
    assert run(python.parent / "tesserae", "--version", folder=tmp_path).startswith("tesserae ")
    code = "import tesserae; print(tesserae.__file__); print(tesserae.Loader.__name__)"
    file, name = run(python, "-c", code, folder=tmp_path).splitlines()
    assert Path(file).is_relative_to(python.parents[1])
    assert name == "Loader"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_mypy_knows_every_name_of_an_installed_wheel(python: Path, tmp_path: Path) -> None:
    """The page of the Python API names the setting that a single module without py.typed needs."""
    page = (ROOT / "docs" / "reference" / "api.md").read_text()
    (setting,) = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    (tmp_path / "pyproject.toml").write_text(f"[tool.mypy]\nstrict = true\n{setting}")
    (tmp_path / "snippet.py").write_text(SNIPPET)
    command = (sys.executable, "-m", "mypy", "--python-executable", python, "snippet.py")

    printed = run(*command, folder=tmp_path)

    assert 'Revealed type is "pipeline.loader.loader.Loader[torch._tensor.Tensor]"' in printed
    assert 'Module has no attribute "Laoder"; maybe "Loader"?' in printed


# --- by pip, from a package index -----------------------------------------------------------------


def clean(*words: object, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a program in *folder*, as on a machine that has no checkout."""
    kept = {name: text for name, text in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        list(map(str, words)), cwd=folder, env=kept, capture_output=True, text=True, check=False
    )


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_pillow_simd_of_beforehand_is_mended(wheel: Path, tmp_path: Path) -> None:
    """Pip puts Pillow over it; the doctor says so, its cure works, and pip keeps the result."""
    if reason := why_stock("auto"):
        pytest.skip(f"Pillow-SIMD cannot be compiled, because {reason}")
    venv.create(tmp_path / "venv", with_pip=True)
    programs = tmp_path / "venv" / "bin"
    pip = (programs / "python", "-m", "pip", "install", "--quiet")
    if (done := clean(*pip, f"pillow-simd=={PILLOW_SIMD}", folder=tmp_path)).returncode:
        pytest.skip(f"there is no package index: {done.stderr[-200:]}")
    assert clean(*pip, wheel, folder=tmp_path).returncode == 0

    def pillow(*options: str) -> dict[str, str]:
        done = clean(programs / "tesserae", "doctor", "--json", *options, folder=tmp_path)
        (finding,) = (f for f in json.loads(done.stdout)["findings"] if f["subject"] == "Pillow")
        return dict(finding)

    broken = pillow()
    assert broken["state"] == "broken"
    assert "`tesserae doctor --install-pillow-simd`" in broken["advice"]
    assert pillow("--install-pillow-simd")["state"] == "ok"
    again = clean(*pip, "--force-reinstall", "--no-deps", wheel, "bokeh", folder=tmp_path)
    assert again.returncode == 0, again.stderr
    mended = pillow()
    assert (mended["state"], mended["found"].split(",")[0]) == ("ok", f"pillow-simd {PILLOW_SIMD}")
    assert clean(programs / "python", "-m", "pip", "check", folder=tmp_path).returncode == 0


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("beside", ["pillow==12.1.1", "pillow", "datasets"])
def test_pip_installs_a_command_that_works(wheel: Path, tmp_path: Path, beside: str) -> None:
    """With the oldest Pillow, with the newest, and beside a library with many requirements."""
    venv.create(tmp_path / "venv", with_pip=True)
    programs = tmp_path / "venv" / "bin"
    pip = (programs / "python", "-m", "pip", "install", "--quiet")
    if (done := clean(*pip, beside, folder=tmp_path)).returncode:
        pytest.skip(f"there is no package index: {done.stderr[-200:]}")
    done = clean(*pip, f"{wheel}[sample]", beside, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert clean(programs / "python", "-m", "pip", "check", folder=tmp_path).returncode == 0

    printed = clean(programs / "tesserae", "--version", folder=tmp_path).stdout
    assert f"tesserae-images in {tmp_path}" in printed
    assert "torch" not in printed
    done = clean(programs / "tesserae", "doctor", "--json", folder=tmp_path)
    findings = json.loads(done.stdout)["findings"]
    assert [each for each in findings if each["state"] == "broken"] == []
    assert "make clean" not in done.stdout
    assert "EXTRAS" not in done.stdout
    done = clean(programs / "tesserae", "demo", "--images", 40, folder=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "torch is not installed: run `pip install 'tesserae-images[train]'`" in done.stdout
    assert (tmp_path / "demo" / "store" / "report.html").exists()
