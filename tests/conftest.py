"""Fixtures and Hypothesis profiles that all tests share."""

import gc
import logging
import os
import shutil
import signal
import subprocess
import threading
import venv
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from tests import fork_server

# No deadline: the time of an example depends on the machine, and tells nothing about the code.
settings.register_profile(
    "quick", deadline=None, max_examples=20, suppress_health_check=[HealthCheck.too_slow]
)
os.environ["HF_HUB_OFFLINE"] = "1"  # no test asks a model hub
# Under `nohup` SIGHUP is ignored, and what is started inherits that; a handler is not inherited.
if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
    signal.signal(signal.SIGHUP, lambda *_: None)
# Several tests run at a time: threads of numeric libraries, here and in what tests start, would
# spend a third of all processor time waiting for each other. Read when those are imported.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")


def _sync_nothing(file: int) -> None:
    """Take the place of `os.fsync`: what tests write need not survive a power failure.

    Each wait for the disk would tell nothing. Programs that tests start do sync, and what must be
    synced is checked there, or by a recorder in place of this.
    """
    os.fstat(file)  # as there, a closed file is an error


os.fsync = _sync_nothing

settings.register_profile("thorough", settings.get_profile("quick"), max_examples=1000)
settings.load_profile("quick")


def pytest_configure(config: pytest.Config) -> None:
    """Share one fork server among the processes that run tests in parallel."""
    if getattr(config.option, "numprocesses", None) and not hasattr(config, "workerinput"):
        fork_server.share()


def pytest_collection() -> None:
    """Let no garbage be sought while tests are collected: what is imported then stays."""
    gc.disable()


def pytest_collection_finish() -> None:
    """Take what is there now out of later searches, which would walk through it again and again."""
    gc.freeze()
    gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the tests of commands first: they are the slowest, and would run alone at the end."""
    items.sort(key=lambda item: not item.path.is_relative_to(Path(__file__).parent / "workflows"))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Return the folder of real photographs that TESSERAE_DATA names."""
    named = os.environ.get("TESSERAE_DATA", "")
    if not named:
        pytest.skip("TESSERAE_DATA names no folder of real photographs")
    return Path(named)


STOCK_PILLOW = "12.1.1"


@pytest.fixture(scope="session")
def stock_python(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a Python with stock Pillow only, which is created once in pytest's cache."""
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


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """Start an S3 server (moto) on the loopback address, and return its URL.

    The server outlives every connection that s3fs keeps for reuse.
    """
    moto_server = pytest.importorskip("moto.server")
    pytest.importorskip("s3fs")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = moto_server.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    # S3 decides in one step whether an object exists; moto looks first and writes then.
    application, exclusive = server._server.app, threading.Lock()

    def one_exclusive_request_at_a_time(environ: Any, start_response: Any) -> Any:
        with exclusive if "HTTP_IF_NONE_MATCH" in environ else nullcontext():
            return application(environ, start_response)

    server._server.app = one_exclusive_request_at_a_time
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(scope="module")
def s3_environment(s3_server: str) -> Iterator[dict[str, str]]:
    """Set the environment variables that lead s3fs to the server, here and in commands."""
    environment = {
        "AWS_ENDPOINT_URL": s3_server,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        yield environment
