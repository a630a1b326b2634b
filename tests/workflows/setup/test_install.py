"""The creation of `.venv`; slow steps and network access are recorded instead of run."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests import lacking
from workflows.setup import detect_pillow, install, install_pillow
from workflows.setup.detect_pillow import PILLOW_SIMD, PILLOW_STOCK
from workflows.setup.environment import (
    Environment,
    EnvironmentConfig,
    SetupError,
    digest_of_inputs,
    project_tables,
)

PROJECT = """
[project]
name = "x"
dependencies = ["numpy"]
[project.optional-dependencies]
s3 = ["s3fs"]
sample = ["scikit-image"]
devkit = ["scipy"]
lsun = ["lmdb"]
slurm = ["dask-jobqueue"]
[dependency-groups]
dev = ["pytest"]
[tool.ruff]
line-length = 100
"""


@pytest.fixture(autouse=True)
def _forget():
    project_tables.cache_clear()
    yield
    project_tables.cache_clear()


@pytest.fixture(name="environment")
def _environment(tmp_path):
    """A project whose environment does not exist yet."""
    setup = tmp_path / "workflows" / "setup"
    setup.mkdir(parents=True)
    for name in ("install.py", "install_pillow.py", "detect_pillow.py"):
        (setup / name).write_text("# code\n")
    (tmp_path / "pyproject.toml").write_text(PROJECT)
    (tmp_path / "constraints.txt").write_text("numpy==2.4.6\n")
    (tmp_path / "pipeline" / "images").mkdir(parents=True)
    (tmp_path / "pipeline" / "images" / "_jpeg_crop.c").write_text("/* code */\n")
    return Environment(tmp_path)


@pytest.fixture(name="steps")
def _steps(monkeypatch):
    """The recorded commands; each succeeds and creates the files that the real one would."""
    done: list[list[str]] = []

    def run(environment, step, *command, env=None):
        variables = [f"{name}={env[name]}" for name in ("CPATH", "CC") if env and name in env]
        done.append([*command, *variables])
        if command[-2:] == ("venv", ".venv"):
            (environment.folder / "bin").mkdir()
            (environment.folder / "bin" / "python").touch()
            (environment.folder / "lib" / "python3.11" / "site-packages").mkdir(parents=True)
        if "wheel" in command:
            name = f"pillow_simd-{PILLOW_SIMD}-cp311-cp311-linux_x86_64.whl"
            (environment.folder / "wheels" / name).touch()

    monkeypatch.setattr(Environment, "run", run)
    return done


@pytest.fixture(name="able")
def _able(monkeypatch):
    """A machine that compiles Pillow-SIMD with AVX2, and whose PIL folder is as expected."""
    monkeypatch.setattr(detect_pillow, "is_x86", lambda: True)
    monkeypatch.setattr(detect_pillow, "missing_packages", list)
    monkeypatch.setattr(detect_pillow, "cpu_has_avx2", lambda: True)
    monkeypatch.setattr(detect_pillow, "simd_level_of_wheel", lambda wheel: "avx2")
    monkeypatch.setattr(detect_pillow, "pillow_owners", lambda site: [f"pillow-simd {PILLOW_SIMD}"])
    monkeypatch.setattr(detect_pillow, "installed_simd_level", lambda site: "avx2")
    monkeypatch.delenv("CC", raising=False)
    return monkeypatch


def _stock(patch):
    patch.setattr(detect_pillow, "pillow_owners", lambda site: [f"pillow {PILLOW_STOCK}"])
    patch.setattr(detect_pillow, "installed_simd_level", lambda site: "none")


CONFIG = EnvironmentConfig(extras=("dev", "s3"), pillow="auto")


def test_a_new_environment_is_complete(environment, steps, able):
    """All steps run in order, and the stamp is written last."""
    assert install.set_up(environment, CONFIG, system=True)

    words = [" ".join(command) for command in steps]
    assert len(words) == 6
    assert words[0].endswith("-m venv .venv")
    assert "install pip --upgrade -c constraints.txt" in words[1]
    assert "--no-cache-dir" in words[2]
    assert words[2].endswith("CC=cc -mavx2")
    assert "install pillow --no-index -c .venv/constraints.txt" in words[3]
    assert "install --editable .[s3] --group dev -c .venv/constraints.txt" in words[4]
    assert "pip check" in words[5]
    assert environment.stamp()["why_stock"] == ""


def test_a_second_setup_does_nothing(environment, steps, able):
    """No step runs if the stamp matches the configuration."""
    install.set_up(environment, CONFIG, system=True)
    steps.clear()

    assert not install.set_up(environment, CONFIG, system=True)
    assert steps == []


def test_pillow_is_pinned_to_the_installed_one(environment, steps, able):
    """The constraints name one Pillow, so a later install cannot request another."""
    install.set_up(environment, CONFIG, system=True)

    text = (environment.folder / "constraints.txt").read_text()

    assert text.splitlines() == ["numpy==2.4.6", "", f"pillow=={PILLOW_SIMD}"]


@pytest.mark.parametrize("breaks_at", range(6))
def test_an_interrupted_setup_starts_from_scratch(environment, steps, able, breaks_at):
    """A setup that stops at any step leaves no stamp, and the next run repeats every step."""
    real_run = Environment.run

    def run(self, step, *command, env=None):
        if len(steps) == breaks_at:
            raise KeyboardInterrupt
        real_run(self, step, *command, env=env)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Environment, "run", run)
        with pytest.raises(KeyboardInterrupt):
            install.set_up(environment, CONFIG, system=True)
    assert environment.stamp() == {}
    steps.clear()

    install.set_up(environment, CONFIG, system=True)

    assert len(steps) == 6
    assert environment.stamp()


def test_a_new_requirement_is_installed_into_the_same_environment(environment, steps, able):
    """A changed pyproject.toml requires an install, but no compilation."""
    install.set_up(environment, CONFIG, system=True)
    steps.clear()
    (environment.root / "pyproject.toml").write_text(PROJECT.replace("numpy", "numpy>=2"))
    project_tables.cache_clear()

    assert install.set_up(environment, CONFIG, system=True)
    assert [command[4] for command in steps] == ["install", "install", "check"]


def test_an_interrupted_install_leaves_no_stamp(environment, steps, able):
    """The environment may have been complete before."""
    install.set_up(environment, CONFIG, system=True)

    def stop(environment, config, *, system):
        raise KeyboardInterrupt

    able.setattr(install, "install_all", stop)
    with pytest.raises(KeyboardInterrupt):
        install.set_up(environment, EnvironmentConfig(extras=(), pillow="auto"), system=True)

    assert environment.stamp() == {}


def test_another_pillow_gets_another_environment(environment, steps, able):
    """Both own the same files, so pip would remove the new ones with the old package."""
    install.set_up(environment, CONFIG, system=True)
    (environment.folder / "old").touch()
    _stock(able)

    install.set_up(
        environment, EnvironmentConfig(extras=CONFIG.extras, pillow="stock"), system=True
    )

    assert not (environment.folder / "old").exists()


def test_options_of_tools_do_not_change_the_digest_of_requirements(environment):
    """A changed line length requires no new environment; a changed constraint does."""
    before = digest_of_inputs(environment.root)
    (environment.root / "pyproject.toml").write_text(PROJECT.replace("100", "80"))
    project_tables.cache_clear()
    assert digest_of_inputs(environment.root) == before

    (environment.root / "constraints.txt").write_text("numpy==2.4.7\n")

    assert digest_of_inputs(environment.root) != before


def test_changed_code_of_the_extension_is_compiled_again(environment, steps, able):
    """The old extension does not remain, where the new one cannot be compiled."""
    install.set_up(environment, CONFIG, system=True)
    images = environment.root / "pipeline" / "images"
    (images / "_jpeg_crop.abi3.so").touch()
    steps.clear()

    (images / "_jpeg_crop.c").write_text("/* other code */\n")

    assert install.set_up(environment, CONFIG, system=True)
    assert any("--editable" in command for command in steps)
    assert not (images / "_jpeg_crop.abi3.so").exists()


def test_a_moved_environment_is_not_ready(environment, steps, able, tmp_path_factory):
    """The scripts of a moved environment contain its old path."""
    install.set_up(environment, CONFIG, system=True)
    moved = tmp_path_factory.mktemp("there") / "project"
    environment.root.rename(moved)

    assert Environment(moved).stamp() == {}


def test_an_environment_without_its_python_is_not_ready(environment, steps, able):
    """An upgrade of the system's Python leaves a broken link."""
    install.set_up(environment, CONFIG, system=True)
    python = environment.folder / "bin" / "python"
    python.unlink()
    python.symlink_to("/no/such/python")

    assert environment.stamp() == {}


def test_a_foreign_environment_is_not_deleted(environment, steps, able):
    """An environment that `make setup` did not create is not deleted."""
    environment.folder.mkdir()
    (environment.folder / "mine").touch()

    with pytest.raises(SetupError, match="not created by `make setup`"):
        install.set_up(environment, CONFIG, system=True)
    assert (environment.folder / "mine").exists()


def test_without_a_compiler_stock_pillow_is_installed_with_a_notice(environment, steps, able):
    """The stamp and the last line have the reason; the line also says that the recipe differs."""
    _stock(able)
    able.setattr(detect_pillow, "missing_packages", lambda: ["gcc"])

    install.set_up(environment, CONFIG, system=False)

    assert not any("wheel" in command for command in steps)
    assert f"pillow=={PILLOW_STOCK}" in (environment.folder / "constraints.txt").read_text()
    assert re.search(
        r"STOCK Pillow .* because .*gcc.* cannot be continued with Pillow-SIMD",
        install.ready_line(environment),
    )


def test_stock_pillow_is_replaced_once_simd_can_be_compiled(environment, steps, able):
    """The next run after the missing packages were installed compiles Pillow-SIMD."""
    with pytest.MonkeyPatch.context() as patch:
        _stock(patch)
        patch.setattr(detect_pillow, "missing_packages", lambda: ["gcc"])
        install.set_up(environment, CONFIG, system=False)
        assert not install.set_up(environment, CONFIG, system=False)
    steps.clear()
    (environment.folder / "old").touch()

    assert install.set_up(environment, CONFIG, system=False)
    assert not (environment.folder / "old").exists()
    assert any("wheel" in command for command in steps)
    assert environment.stamp()["why_stock"] == ""


def test_adding_an_extra_keeps_the_environment(environment, steps, able):
    """A compiler that was removed since does not cause a new environment."""
    install.set_up(environment, CONFIG, system=True)
    steps.clear()
    able.setattr(detect_pillow, "missing_packages", lambda: ["gcc"])

    install.set_up(environment, EnvironmentConfig(extras=("dev",), pillow="auto"), system=True)

    assert [command[4] for command in steps] == ["install", "install", "check"]
    assert environment.stamp()["why_stock"] == ""


def test_adding_an_extra_keeps_stock_pillow(environment, steps, able):
    """No system package is installed, which could change the choice of Pillow."""
    _stock(able)
    _system(able, root=True)
    install.set_up(environment, CONFIG, system=False)
    steps.clear()

    install.set_up(environment, EnvironmentConfig(extras=("dev",), pillow="auto"), system=True)

    assert [command[4] for command in steps] == ["install", "install", "check"]
    assert environment.stamp()["why_stock"]


def test_a_failing_compiler_leads_to_stock_pillow(environment, steps, able):
    """With PILLOW=simd the failure is an error."""
    _stock(able)

    def fail(environment):
        raise SetupError("cc1: error")

    able.setattr(install_pillow, "compile_pillow_simd", fail)

    install.set_up(environment, CONFIG, system=True)
    assert "did not compile" in environment.stamp()["why_stock"]

    with pytest.raises(SetupError, match="PILLOW=simd"):
        install.set_up(environment, EnvironmentConfig(extras=(), pillow="simd"), system=True)


def test_the_binary_is_checked_instead_of_the_flag(environment, steps, able):
    """A wheel compiled for AVX2 whose code is SSE4 is refused."""
    able.setattr(detect_pillow, "simd_level_of_wheel", lambda wheel: "sse4")
    environment.folder.mkdir()
    (environment.folder / "wheels").mkdir()

    with pytest.raises(SetupError, match="resizes with sse4, not avx2"):
        install_pillow.compile_pillow_simd(environment)


def test_the_build_looks_for_headers_where_the_check_does(environment, steps, able, tmp_path):
    """Pillow leaves a format out whose header it does not find, also where the compiler would."""
    (tmp_path / "headers").mkdir()
    able.setenv("CPATH", str(tmp_path / "headers"))
    environment.folder.mkdir()
    (environment.folder / "wheels").mkdir()

    install_pillow.compile_pillow_simd(environment)

    (folders,) = (word for word in steps[0] if word.startswith("CPATH="))
    named = folders.removeprefix("CPATH=").split(os.pathsep)
    assert named[0] == str(tmp_path / "headers")
    assert {str(folder) for folder in Path("/usr/include").glob("*-linux-gnu*")} <= set(named)


def test_a_cpu_without_avx2_gets_the_sse4_build(environment, steps, able):
    """No flag is added, since SSE4 is Pillow-SIMD's own default."""
    able.setattr(detect_pillow, "cpu_has_avx2", lambda: False)
    able.setattr(detect_pillow, "simd_level_of_wheel", lambda wheel: "sse4")
    able.setenv("CC", "clang")
    environment.folder.mkdir()
    (environment.folder / "wheels").mkdir()

    install_pillow.compile_pillow_simd(environment)

    assert steps[0][-1] == "CC=clang"


@pytest.mark.parametrize(
    ("owners", "level"),
    [
        ([f"pillow-simd {PILLOW_SIMD}", "pillow 13.0.0"], "none"),
        (["pillow 13.0.0"], "none"),
        ([f"pillow-simd {PILLOW_SIMD}"], "none"),
        ([f"pillow-simd {PILLOW_SIMD}", "pillow 13.0.0"], "avx2"),
        (["pillow-simd 13.0.0"], "avx2"),
        ([], "none"),
    ],
)
def test_a_step_that_overwrites_pillow_stops_the_setup(environment, steps, able, owners, level):
    """After each install the PIL folder must belong to one Pillow with its instructions."""
    able.setattr(detect_pillow, "pillow_owners", lambda site: owners)
    able.setattr(detect_pillow, "installed_simd_level", lambda site: level)

    with pytest.raises(SetupError, match="the PIL folder belongs to"):
        install.set_up(environment, CONFIG, system=True)
    assert environment.stamp() == {}


def _system(able, *, root):
    able.setattr(detect_pillow, "missing_packages", lambda: ["libtiff-dev", "gcc"])
    able.setattr(install_pillow.os, "geteuid", lambda: 0 if root else 1000)
    able.setattr(install_pillow.shutil, "which", lambda name: f"/usr/bin/{name}")


def test_root_installs_missing_system_packages(environment, steps, able):
    """Only the missing packages are installed, without questions."""
    _system(able, root=True)

    install_pillow.add_system_packages(environment)

    assert steps[0][0] == "sh"
    assert steps[0][-2:] == ["libtiff-dev", "gcc"]


def test_only_root_installs_system_packages(environment, steps, able):
    """Another user runs no command."""
    _system(able, root=False)

    install_pillow.add_system_packages(environment)

    assert steps == []


def _config(environment, *words):
    return install.read_config(install.parse_arguments(words), environment)


def test_the_present_environment_is_the_default(environment, steps, able):
    """A target that needs an extra adds it, and earlier choices stay."""
    assert _config(environment) == EnvironmentConfig(
        extras=("devkit", "lsun", "s3", "sample", "slurm"), pillow="auto"
    )
    assert _config(environment, "--need", "dev").extras == (
        "dev",
        "devkit",
        "lsun",
        "s3",
        "sample",
        "slurm",
    )

    _stock(able)
    install.set_up(
        environment, _config(environment, "--extras", "s3", "--pillow", "stock"), system=True
    )

    assert _config(environment) == EnvironmentConfig(extras=("s3",), pillow="stock")
    assert _config(environment, "--need", "dev").extras == ("dev", "s3")
    assert _config(environment, "--extras", "").extras == ()


def test_an_unknown_extra_is_refused_with_the_known_ones(environment):
    """The error is one sentence, before anything is installed."""
    with pytest.raises(SetupError, match=r"no extra named nope.*dev, devkit, lsun, s3, sample"):
        _config(environment, "--extras", "nope")


def test_a_failing_step_shows_the_end_of_its_output(environment, capfd):
    """The error has the last lines, the step, its exit status and the file with the rest."""
    environment.folder.mkdir()
    code = "print('\\n'.join(f'line {n}' for n in range(40))); raise SystemExit(3)"

    with pytest.raises(SetupError) as caught:
        environment.run("trying", sys.executable, "-c", code)

    text = str(caught.value)
    assert "line 39" in text
    assert "line 24" not in text
    assert "trying ended with exit status 3" in text
    assert "setup.log" in text
    assert capfd.readouterr().out.startswith("setup: trying ...")


def test_steps_run_without_standard_input(environment):
    """A question would otherwise wait for a user who may be absent."""
    environment.folder.mkdir()

    with pytest.raises(SetupError, match="EOFError"):
        environment.run("asking", sys.executable, "-c", "input('Go on? ')")


def test_a_damaged_stamp_is_ignored(environment):
    """A truncated file counts as missing."""
    environment.folder.mkdir()
    (environment.folder / "setup.json").write_text('{"extras": [')

    assert environment.stamp() == {}


def test_the_stamp_records_the_configuration(environment, steps, able):
    """The doctor reads the configuration, too."""
    install.set_up(environment, CONFIG, system=True)

    stamp = json.loads((environment.folder / "setup.json").read_text())

    assert (stamp["extras"], stamp["pillow"]) == (["dev", "s3"], "auto")


def test_one_setup_runs_at_a_time(tmp_path):
    """A second setup waits for the first."""
    code = (
        "import fcntl, os, sys; handle = os.open(sys.argv[1], os.O_RDONLY)\n"
        "try: fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)\n"
        "except BlockingIOError: print('busy')"
    )
    ask = [sys.executable, "-c", code, str(tmp_path)]

    with install.setup_lock(tmp_path):
        locked = subprocess.run(ask, capture_output=True, text=True, check=True, timeout=60)
    free = subprocess.run(ask, capture_output=True, text=True, check=True, timeout=60)

    assert (locked.stdout, free.stdout) == ("busy\n", "")


def test_a_folder_without_locks_is_set_up_with_a_notice(tmp_path, monkeypatch, capsys):
    """The notice says to run one setup at a time."""
    lacking.remove(lacking.LINUX_NFS, monkeypatch.setattr)

    with install.setup_lock(tmp_path):
        pass

    assert "cannot be locked (Function not implemented): run one setup" in capsys.readouterr().out


def test_a_failed_setup_is_one_message_and_exit_status_1(monkeypatch, capsys):
    """No traceback is printed."""

    def fail(environment, config, *, system):
        raise SetupError("setup failed: for a reason")

    monkeypatch.setattr(install, "set_up", fail)

    assert install.main([]) == 1
    assert capsys.readouterr().err == "setup failed: for a reason\n"


def test_an_interrupted_setup_has_exit_status_130(monkeypatch, capsys):
    """The message says that the next setup starts from scratch."""

    def stop(environment, config, *, system):
        raise KeyboardInterrupt

    monkeypatch.setattr(install, "set_up", stop)

    assert install.main([]) == 130
    assert "starts from scratch" in capsys.readouterr().err


def test_the_projects_constraints_do_not_pin_pillow():
    """A pin would contradict the one that the setup writes."""
    root = Path(install.__file__).parents[2]

    names = re.findall(r"^([\w-]+)==", (root / "constraints.txt").read_text(), re.MULTILINE)

    assert "zarr" in names
    assert not {name for name in names if name.lower().startswith("pillow")}
