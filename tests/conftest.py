"""What all tests share: the profiles of the laws, and where real photographs are."""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# No deadline: how long an example takes says something about the machine, nothing about the code.
settings.register_profile(
    "quick", deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("thorough", settings.get_profile("quick"), max_examples=1000)
settings.load_profile("quick")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real photographs that TESSERAE_DATA names."""
    named = os.environ.get("TESSERAE_DATA", "")
    if not named:
        pytest.skip("TESSERAE_DATA names no folder of real photographs")
    return Path(named)
