"""What all tests share: the profiles of the laws, and where real photographs are."""

import os
import shutil
import subprocess
import venv
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# No deadline: how long an example takes says something about the machine, nothing about the code.
settings.register_profile(
    "quick", deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow]
)
os.environ["HF_HUB_OFFLINE"] = "1"  # no test asks a model hub

settings.register_profile("thorough", settings.get_profile("quick"), max_examples=1000)
settings.load_profile("quick")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real photographs that TESSERAE_DATA names."""
    named = os.environ.get("TESSERAE_DATA", "")
    if not named:
        pytest.skip("TESSERAE_DATA names no folder of real photographs")
    return Path(named)


STOCK_PILLOW = "12.1.1"


@pytest.fixture(scope="session")
def stock_python(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python with stock Pillow and nothing else: made once, and kept in pytest's cache."""
    cache = getattr(request.config, "cache", None)
    folder = cache.mkdir("stock-pillow") if cache else tmp_path_factory.mktemp("stock-pillow")
    python = folder / STOCK_PILLOW / "bin" / "python"
    check = [str(python), "-c", f"import PIL; assert PIL.__version__ == {STOCK_PILLOW!r}"]
    if python.exists() and subprocess.run(check, check=False).returncode == 0:
        return python
    shutil.rmtree(folder / STOCK_PILLOW, ignore_errors=True)
    venv.create(folder / STOCK_PILLOW, with_pip=True)
    install = [str(python), "-m", "pip", "install", "--quiet", f"pillow=={STOCK_PILLOW}"]
    done = subprocess.run(install, check=False, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"stock Pillow cannot be installed: {done.stderr.strip()[-200:]}")
    return python
