"""The methods that are compared, and the interpreters that take part."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import TesseraeError
from workflows.studies.parallel.arms import arms_of, worker_numbers
from workflows.studies.parallel.environments import (
    SIMD,
    STOCK,
    Interpreter,
    free_threaded,
    other_pillow,
    own_interpreter,
)

OWN = Interpreter("python", SIMD, "12.1.1.post0")
OTHER = Interpreter("other", STOCK, "12.1.1")
FREE = Interpreter("free", STOCK, "12.1.1", has_lock=False, decoders=("pillow",))


@given(cores=st.integers(1, 128), quick=st.booleans())
def test_arms_have_unique_names_and_one_to_two_workers_a_core(cores: int, quick: bool) -> None:
    """A name leads to one method, in every run of the study."""
    arms = list(arms_of([OWN, OTHER, FREE], cores=cores, quick=quick))
    assert len({arm.name for arm in arms}) == len(arms)
    numbers = {arm.workers for arm in arms if arm.method != "serial"}
    assert min(numbers) == cores
    assert max(numbers) == 2 * cores
    assert worker_numbers(cores) == sorted(set(worker_numbers(cores)))


def test_an_interpreter_without_a_lock_runs_threads() -> None:
    """It has no other methods, and only the library that it has."""
    arms = [arm for arm in arms_of([OWN, FREE], cores=2) if arm.interpreter is FREE]
    assert {(arm.method, arm.workers) for arm in arms} == {
        ("serial", 1), ("threads", 2), ("threads", 3), ("threads", 4),
    }  # fmt: skip
    assert {arm.decoder for arm in arms} == {"pillow"}
    assert all(arm.name.endswith("no lock, warm") for arm in arms)


def test_this_interpreter_is_described() -> None:
    """Pillow-SIMD is known by its version."""
    own = own_interpreter()
    assert own.python == sys.executable
    assert own.pillow == (SIMD if ".post" in own.version else STOCK)


@pytest.mark.slow
def test_an_environment_that_cannot_be_created_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The study goes on without it, and says why."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setattr("workflows.studies.parallel.environments.PILLOW_STOCK", "0.0.1")
    lines: list[str] = []
    assert other_pillow(OWN, tmp_path, lines.append) is None
    assert lines[0].startswith("creating an environment with Pillow")
    assert lines[1].startswith("pillow is left out: ")
    assert not (tmp_path / "pillow" / "requirements.json").exists()


def test_an_interpreter_with_a_lock_is_refused(tmp_path: Path) -> None:
    """So is a program that does not exist."""
    with pytest.raises(TesseraeError, match="it has a global lock"):
        free_threaded(sys.executable, tmp_path, print)
    with pytest.raises(TesseraeError, match="--free-threaded is nopython: there is no such"):
        free_threaded("nopython", tmp_path, print)
