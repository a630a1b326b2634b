"""How `.venv` comes about, with every step that would take time or network recorded instead."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests import lacking
from workflows.setup import install, pillow
from workflows.setup.environment import (
    Environment,
    SetupError,
    Wish,
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


@pytest.fixture(name="place")
def _place(tmp_path):
    """A project whose environment is not made yet."""
    setup = tmp_path / "workflows" / "setup"
    setup.mkdir(parents=True)
    for name in ("install.py", "pillow.py"):
        (setup / name).write_text("# code\n")
    (tmp_path / "pyproject.toml").write_text(PROJECT)
    (tmp_path / "constraints.txt").write_text("numpy==2.4.6\n")
    return Environment(tmp_path)


@pytest.fixture(name="steps")
def _steps(monkeypatch):
    """The commands that were run; each one succeeds and leaves what the real one would."""
    done: list[list[str]] = []

    def run(place, step, *command, env=None):
        done.append([*command, f"CC={env['CC']}"] if env and "CC" in env else list(command))
        if command[-2:] == ("venv", ".venv"):
            (place.folder / "bin").mkdir()
            (place.folder / "bin" / "python").touch()
            (place.folder / "lib" / "python3.11" / "site-packages").mkdir(parents=True)
        if "wheel" in command:
            name = f"pillow_simd-{pillow.PILLOW_SIMD}-cp311-cp311-linux_x86_64.whl"
            (place.folder / "wheels" / name).touch()

    monkeypatch.setattr(Environment, "run", run)
    return done


@pytest.fixture(name="able")
def _able(monkeypatch):
    """A machine that compiles Pillow-SIMD with AVX2, and where PIL is what it should be."""
    monkeypatch.setattr(pillow, "is_x86", lambda: True)
    monkeypatch.setattr(pillow, "missing_packages", list)
    monkeypatch.setattr(pillow, "cpu_has_avx2", lambda: True)
    monkeypatch.setattr(pillow, "simd_level_of_wheel", lambda wheel: "avx2")
    monkeypatch.setattr(pillow, "pillow_owners", lambda site: [f"pillow-simd {pillow.PILLOW_SIMD}"])
    monkeypatch.setattr(pillow, "installed_simd_level", lambda site: "avx2")
    monkeypatch.delenv("CC", raising=False)
    return monkeypatch


def _stock(patch):
    patch.setattr(pillow, "pillow_owners", lambda site: [f"pillow {pillow.PILLOW_STOCK}"])
    patch.setattr(pillow, "installed_simd_level", lambda site: "none")


WISH = Wish(extras=("dev", "s3"), pillow="auto")


def test_from_nothing_to_whole(place, steps, able):
    """Environment, pip, compiler, Pillow, project, check; then, and only then, the stamp."""
    assert install.set_up(place, WISH, system=True)

    words = [" ".join(command) for command in steps]
    assert len(words) == 6
    assert words[0].endswith("-m venv .venv")
    assert "install pip --upgrade -c constraints.txt" in words[1]
    assert "--no-cache-dir" in words[2]
    assert words[2].endswith("CC=cc -mavx2")
    assert "install pillow --no-index -c .venv/constraints.txt" in words[3]
    assert "install --editable .[s3] --group dev -c .venv/constraints.txt" in words[4]
    assert "pip check" in words[5]
    assert place.stamp()["why_stock"] == ""


def test_the_second_run_does_nothing(place, steps, able):
    """No step is run when the stamp says that all is as wished."""
    install.set_up(place, WISH, system=True)
    steps.clear()

    assert not install.set_up(place, WISH, system=True)
    assert steps == []


def test_pillow_is_pinned_to_the_one_that_is_there(place, steps, able):
    """A later install cannot ask for another Pillow: the constraints name the one."""
    install.set_up(place, WISH, system=True)

    text = (place.folder / "constraints.txt").read_text()

    assert text.splitlines() == ["numpy==2.4.6", "", f"pillow=={pillow.PILLOW_SIMD}"]


@pytest.mark.parametrize("breaks_at", range(6))
def test_a_setup_that_was_broken_off_starts_afresh(place, steps, able, breaks_at):
    """Wherever it stops, nothing that is left looks whole, and the next run makes all anew."""
    whole = Environment.run

    def run(self, step, *command, env=None):
        if len(steps) == breaks_at:
            raise KeyboardInterrupt
        whole(self, step, *command, env=env)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Environment, "run", run)
        with pytest.raises(KeyboardInterrupt):
            install.set_up(place, WISH, system=True)
    assert place.stamp() == {}
    steps.clear()

    install.set_up(place, WISH, system=True)

    assert len(steps) == 6
    assert place.stamp()


def test_a_new_requirement_is_installed_into_the_same_environment(place, steps, able):
    """Another pyproject.toml costs an install, not a compiler."""
    install.set_up(place, WISH, system=True)
    steps.clear()
    (place.root / "pyproject.toml").write_text(PROJECT.replace("numpy", "numpy>=2"))
    project_tables.cache_clear()

    assert install.set_up(place, WISH, system=True)
    assert [command[4] for command in steps] == ["install", "install", "check"]


def test_an_install_that_is_broken_off_leaves_nothing_that_looks_whole(place, steps, able):
    """Also when the environment was whole before."""
    install.set_up(place, WISH, system=True)

    def stop(place, wish, *, system):
        raise KeyboardInterrupt

    able.setattr(install, "install_all", stop)
    with pytest.raises(KeyboardInterrupt):
        install.set_up(place, Wish(extras=(), pillow="auto"), system=True)

    assert place.stamp() == {}


def test_another_pillow_gets_another_environment(place, steps, able):
    """Both own the same files: pip would remove the new one's with the old one."""
    install.set_up(place, WISH, system=True)
    (place.folder / "old").touch()
    _stock(able)

    install.set_up(place, Wish(extras=WISH.extras, pillow="stock"), system=True)

    assert not (place.folder / "old").exists()


def test_the_options_of_the_tools_are_no_requirement(place):
    """Another line length makes no new environment; another constraint does."""
    before = digest_of_inputs(place.root)
    (place.root / "pyproject.toml").write_text(PROJECT.replace("100", "80"))
    project_tables.cache_clear()
    assert digest_of_inputs(place.root) == before

    (place.root / "constraints.txt").write_text("numpy==2.4.7\n")

    assert digest_of_inputs(place.root) != before


def test_an_environment_that_was_moved_is_not_ready(place, steps, able, tmp_path_factory):
    """Its scripts name the old place."""
    install.set_up(place, WISH, system=True)
    there = tmp_path_factory.mktemp("there") / "project"
    place.root.rename(there)

    assert Environment(there).stamp() == {}


def test_an_environment_whose_python_is_gone_is_not_ready(place, steps, able):
    """An upgrade of the system's Python leaves a link to nowhere."""
    install.set_up(place, WISH, system=True)
    python = place.folder / "bin" / "python"
    python.unlink()
    python.symlink_to("/no/such/python")

    assert place.stamp() == {}


def test_an_environment_of_somebody_else_is_left_alone(place, steps, able):
    """What was not made here is not deleted."""
    place.folder.mkdir()
    (place.folder / "mine").touch()

    with pytest.raises(SetupError, match="not made by `make setup`"):
        install.set_up(place, WISH, system=True)
    assert (place.folder / "mine").exists()


def test_without_a_compiler_stock_pillow_serves_and_this_is_said(place, steps, able):
    """The reason goes to the stamp and to the last line; another recipe is named."""
    _stock(able)
    able.setattr(pillow, "missing_packages", lambda: ["gcc"])

    install.set_up(place, WISH, system=False)

    assert not any("wheel" in command for command in steps)
    assert f"pillow=={pillow.PILLOW_STOCK}" in (place.folder / "constraints.txt").read_text()
    assert re.search(r"STOCK Pillow .* because .*gcc.* another recipe", install.describe(place))


def test_stock_pillow_is_replaced_once_that_can_be(place, steps, able):
    """When what was missing is there, the next run compiles."""
    with pytest.MonkeyPatch.context() as patch:
        _stock(patch)
        patch.setattr(pillow, "missing_packages", lambda: ["gcc"])
        install.set_up(place, WISH, system=False)
        assert not install.set_up(place, WISH, system=False)
    steps.clear()
    (place.folder / "old").touch()

    assert install.set_up(place, WISH, system=False)
    assert not (place.folder / "old").exists()
    assert any("wheel" in command for command in steps)
    assert place.stamp()["why_stock"] == ""


def test_an_extra_more_keeps_the_environment_whichever_pillow_it_has(place, steps, able):
    """Neither a compiler that is gone since nor one that never was makes all anew."""
    install.set_up(place, WISH, system=True)
    steps.clear()
    able.setattr(pillow, "missing_packages", lambda: ["gcc"])

    install.set_up(place, Wish(extras=("dev",), pillow="auto"), system=True)

    assert [command[4] for command in steps] == ["install", "install", "check"]
    assert place.stamp()["why_stock"] == ""


def test_an_extra_more_keeps_stock_pillow(place, steps, able):
    """And leaves the system alone: what was missing may not come in half-way."""
    _stock(able)
    _system(able, root=True)
    install.set_up(place, WISH, system=False)
    steps.clear()

    install.set_up(place, Wish(extras=("dev",), pillow="auto"), system=True)

    assert [command[4] for command in steps] == ["install", "install", "check"]
    assert place.stamp()["why_stock"]


def test_a_compiler_that_fails_ends_in_stock_pillow(place, steps, able):
    """Unless Pillow-SIMD was insisted on."""
    _stock(able)

    def fail(place):
        raise SetupError("cc1: error")

    able.setattr(install, "compile_pillow_simd", fail)

    install.set_up(place, WISH, system=True)
    assert "did not compile" in place.stamp()["why_stock"]

    with pytest.raises(SetupError, match="PILLOW=simd"):
        install.set_up(place, Wish(extras=(), pillow="simd"), system=True)


def test_the_binary_is_believed_not_the_flag(place, steps, able):
    """A wheel compiled for AVX2 whose code is SSE4 is refused."""
    able.setattr(pillow, "simd_level_of_wheel", lambda wheel: "sse4")
    place.folder.mkdir()
    (place.folder / "wheels").mkdir()

    with pytest.raises(SetupError, match="resizes with sse4, not avx2"):
        install.compile_pillow_simd(place)


def test_a_cpu_without_avx2_gets_the_sse4_build(place, steps, able):
    """No flag is added: SSE4 is Pillow-SIMD's own default."""
    able.setattr(pillow, "cpu_has_avx2", lambda: False)
    able.setattr(pillow, "simd_level_of_wheel", lambda wheel: "sse4")
    able.setenv("CC", "clang")
    place.folder.mkdir()
    (place.folder / "wheels").mkdir()

    install.compile_pillow_simd(place)

    assert steps[0][-1] == "CC=clang"


@pytest.mark.parametrize(
    ("owners", "level"),
    [
        ([f"pillow-simd {pillow.PILLOW_SIMD}", "pillow 13.0.0"], "none"),
        (["pillow 13.0.0"], "none"),
        ([f"pillow-simd {pillow.PILLOW_SIMD}"], "none"),
        ([f"pillow-simd {pillow.PILLOW_SIMD}", "pillow 13.0.0"], "avx2"),
        (["pillow-simd 13.0.0"], "avx2"),
        ([], "none"),
    ],
)
def test_a_step_that_overwrites_pillow_stops_the_setup(place, steps, able, owners, level):
    """After each install the PIL folder must be of the one Pillow, with its instructions."""
    able.setattr(pillow, "pillow_owners", lambda site: owners)
    able.setattr(pillow, "installed_simd_level", lambda site: level)

    with pytest.raises(SetupError, match="the PIL folder is of"):
        install.set_up(place, WISH, system=True)
    assert place.stamp() == {}


def _system(able, *, root):
    able.setattr(pillow, "missing_packages", lambda: ["libtiff-dev", "gcc"])
    able.setattr(install.os, "geteuid", lambda: 0 if root else 1000)
    able.setattr(install.shutil, "which", lambda name: f"/usr/bin/{name}")


def test_root_installs_the_system_packages_that_are_missing(place, steps, able):
    """Just those, without questions."""
    _system(able, root=True)

    install.add_system_packages(place)

    assert steps[0][0] == "sh"
    assert steps[0][-2:] == ["libtiff-dev", "gcc"]


def test_nobody_else_touches_the_system(place, steps, able):
    """Without root nothing is tried."""
    _system(able, root=False)

    install.add_system_packages(place)

    assert steps == []


def _wish(place, *words):
    return install.wish_of(install.parse(words), place)


def test_what_is_not_said_stays_as_it_was(place, steps, able):
    """A target that needs more adds it; nothing that was chosen before is undone."""
    assert _wish(place) == Wish(extras=("devkit", "lsun", "s3", "sample", "slurm"), pillow="auto")
    assert _wish(place, "--need", "dev").extras == (
        "dev",
        "devkit",
        "lsun",
        "s3",
        "sample",
        "slurm",
    )

    _stock(able)
    install.set_up(place, _wish(place, "--extras", "s3", "--pillow", "stock"), system=True)

    assert _wish(place) == Wish(extras=("s3",), pillow="stock")
    assert _wish(place, "--need", "dev").extras == ("dev", "s3")
    assert _wish(place, "--extras", "").extras == ()


def test_an_unknown_extra_is_named_with_those_there_are(place):
    """One sentence, before anything is made."""
    with pytest.raises(SetupError, match=r"no extra named nope.*dev, devkit, lsun, s3, sample"):
        _wish(place, "--extras", "nope")


def test_a_step_that_fails_shows_the_end_of_its_output(place, capfd):
    """The last lines, the step, the exit status and where the rest is."""
    place.folder.mkdir()
    code = "print('\\n'.join(f'line {n}' for n in range(40))); raise SystemExit(3)"

    with pytest.raises(SetupError) as caught:
        place.run("trying", sys.executable, "-c", code)

    text = str(caught.value)
    assert "line 39" in text
    assert "line 24" not in text
    assert "trying ended with exit status 3" in text
    assert "setup.log" in text
    assert capfd.readouterr().out.startswith("setup: trying ...")


def test_a_step_that_asks_gets_no_answer(place):
    """Nobody may be at the terminal."""
    place.folder.mkdir()

    with pytest.raises(SetupError, match="EOFError"):
        place.run("asking", sys.executable, "-c", "input('Go on? ')")


def test_a_damaged_stamp_is_no_stamp(place):
    """A file that was cut off is as good as none."""
    place.folder.mkdir()
    (place.folder / "setup.json").write_text('{"extras": [')

    assert place.stamp() == {}


def test_the_stamp_holds_what_was_wished(place, steps, able):
    """It is read by the doctor too."""
    install.set_up(place, WISH, system=True)

    stamp = json.loads((place.folder / "setup.json").read_text())

    assert (stamp["extras"], stamp["pillow"]) == (["dev", "s3"], "auto")


def test_two_setups_do_not_build_in_one_place(tmp_path):
    """The second one waits for the first."""
    code = (
        "import fcntl, os, sys; handle = os.open(sys.argv[1], os.O_RDONLY)\n"
        "try: fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)\n"
        "except BlockingIOError: print('busy')"
    )
    ask = [sys.executable, "-c", code, str(tmp_path)]

    with install.one_at_a_time(tmp_path):
        held = subprocess.run(ask, capture_output=True, text=True, check=True, timeout=60)
    free = subprocess.run(ask, capture_output=True, text=True, check=True, timeout=60)

    assert (held.stdout, free.stdout) == ("busy\n", "")


def test_a_folder_that_cannot_be_locked_is_set_up_all_the_same(tmp_path, monkeypatch, capsys):
    """The project may lie on a disk without locks: then it is said what not to do."""
    lacking.remove(lacking.LINUX_NFS, monkeypatch.setattr)

    with install.one_at_a_time(tmp_path):
        pass

    assert "cannot be locked (Function not implemented): run one setup" in capsys.readouterr().out


def test_a_failed_setup_is_one_message_and_status_one(monkeypatch, capsys):
    """No traceback, whatever the step said."""

    def fail(place, wish, *, system):
        raise SetupError("setup failed: for a reason")

    monkeypatch.setattr(install, "set_up", fail)

    assert install.main([]) == 1
    assert capsys.readouterr().err == "setup failed: for a reason\n"


def test_a_stopped_setup_says_so(monkeypatch, capsys):
    """Ctrl-C is status 130 and a line."""

    def stop(place, wish, *, system):
        raise KeyboardInterrupt

    monkeypatch.setattr(install, "set_up", stop)

    assert install.main([]) == 130
    assert "starts afresh" in capsys.readouterr().err


def test_the_constraints_of_the_project_leave_pillow_to_the_setup():
    """A pin there would stand against the one that the setup writes."""
    root = Path(install.__file__).parents[2]

    names = re.findall(r"^([\w-]+)==", (root / "constraints.txt").read_text(), re.MULTILINE)

    assert "zarr" in names
    assert not {name for name in names if name.lower().startswith("pillow")}
