"""The methods that are compared."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from workflows.studies.parallel.arms import arms_of, worker_numbers
from workflows.studies.parallel.environments import SIMD, STOCK, Interpreter

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
