"""One run at a time writes a split, however the run before it ended."""

import json
import os
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from pipeline.errors import StoreBusyError
from pipeline.store import lease as module
from pipeline.store.lease import lease
from pipeline.store.objects import Objects
from pipeline.store.open import open_objects
from tests import lacking
from tests.commands import ROOT, wait_until

HOLDER = """
import sys, time
from tests import lacking
lacking.remove(sys.argv[2:], setattr)
from pipeline.store.lease import lease
from pipeline.store.open import open_objects
with lease(open_objects(sys.argv[1]), "train", wait=False):
    print("held", flush=True)
    time.sleep(60)
"""


LACKING = {"disk": (), "disk without flock": ("flock",), "disk without locks": lacking.LINUX_NFS}


@pytest.fixture(params=[*LACKING, "memory"])
def url(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "memory":
        return f"memory://{tmp_path}"
    lacking.remove(LACKING[request.param], monkeypatch.setattr)
    return str(tmp_path)


def test_a_second_run_is_refused_with_the_holder_of_the_split(url: str) -> None:
    """Another run may begin when the first one has ended."""
    objects = open_objects(url)
    with lease(objects, "train", wait=False):
        with (
            pytest.raises(
                StoreBusyError, match=r"'train' of .* is being written by process \d+ on"
            ),
            lease(objects, "train", wait=False),
        ):
            pass
        with lease(objects, "val", wait=False):
            pass
    with lease(objects, "train", wait=False):
        pass


def test_a_removed_lock_file_is_not_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that opens the file just before another one removes it takes part in the next race."""
    try_lock = module.try_lock
    path = tmp_path / ".tmp" / "train.lock"
    opened = []

    def removed_meanwhile(file: int) -> bool:
        if not opened:
            path.unlink()
        opened.append(file)
        return try_lock(file)

    monkeypatch.setattr(module, "try_lock", removed_meanwhile)
    objects = open_objects(str(tmp_path))
    with lease(objects, "train", wait=False):
        assert len(opened) == 2
        with pytest.raises(StoreBusyError), lease(objects, "train", wait=False):
            pass


def test_a_second_run_may_wait(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second run waits until the first one has ended."""
    monkeypatch.setattr(module, "POLL_SECONDS", 0.01)
    objects = open_objects(url)
    order: list[str] = []

    def second() -> None:
        with lease(open_objects(url), "train", wait=True, on_wait=order.append):
            order.append("second")

    thread = threading.Thread(target=second)
    with lease(objects, "train", wait=False):
        thread.start()
        assert wait_until(lambda: order)
        order.append("first")
    thread.join()
    holder, *events = order
    assert holder.startswith("process ")
    assert events == ["first", "second"]


def test_a_holder_without_a_name_is_no_further_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A holder is named once, although its file is empty for a moment as it ends."""
    monkeypatch.setattr(module, "POLL_SECONDS", 0)
    monkeypatch.setattr(module, "ENDING_SECONDS", 0)
    holders = iter([module.UNNAMED, "process 1", module.UNNAMED, "process 1", "process 2", None])
    monkeypatch.setattr(module._LocalLease, "acquire", lambda _: next(holders))
    monkeypatch.setattr(module._LocalLease, "release", lambda _: None)
    waited_for: list[str] = []
    with lease(open_objects(str(tmp_path)), "train", wait=True, on_wait=waited_for.append):
        assert waited_for == [module.UNNAMED, "process 1", "process 2"]


@pytest.mark.parametrize("wait", [False, True])
@pytest.mark.parametrize("calls", LACKING.values(), ids=LACKING)
def test_a_killed_holder_may_still_be_ending(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calls: tuple[str, ...], wait: bool
) -> None:
    """A killed process keeps its lock until its last thread has ended, and is no other run."""
    lacking.remove(calls, monkeypatch.setattr)
    objects = open_objects(str(tmp_path))
    ending = ExitStack()
    ending.enter_context(lease(objects, "train", wait=False))
    monkeypatch.setattr(module.time, "sleep", lambda seconds: ending.close())
    with lease(objects, "train", wait=wait, on_wait=lambda holder: pytest.fail(holder)):
        pass


@pytest.mark.parametrize("calls", LACKING.values(), ids=LACKING)
def test_the_lease_of_a_killed_process_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calls: tuple[str, ...]
) -> None:
    """The system releases it or shows that its process has ended; no manual cleaning is needed."""
    lacking.remove(calls, monkeypatch.setattr)
    command = [sys.executable, "-c", HOLDER, str(tmp_path), *calls]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with (
            pytest.raises(StoreBusyError, match=f"process {holder.pid}"),
            lease(open_objects(str(tmp_path)), "train", wait=False),
        ):
            pass
        holder.kill()
        holder.wait()
    with lease(open_objects(str(tmp_path)), "train", wait=False):
        pass


def test_a_lease_on_an_object_store_expires_if_it_is_not_renewed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The holder has ended or lost the connection."""
    objects = open_objects(f"memory://{tmp_path}")
    monkeypatch.setattr(module, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(module, "EXPIRY_SECONDS", -1.0)
    dead = module._RemoteLease(objects, "train")
    assert objects.put_new(".tmp/train.lease.json", dead._text())
    monkeypatch.setattr(module, "EXPIRY_SECONDS", 120.0)
    with lease(objects, "train", wait=False):
        pass


def test_a_renewed_lease_does_not_expire(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Renewal extends a lease beyond its expiry time."""
    monkeypatch.setattr(module, "EXPIRY_SECONDS", 0.3)
    objects = open_objects(f"memory://{tmp_path}")
    with lease(objects, "train", wait=False):
        for _ in range(8):
            threading.Event().wait(0.1)
            with (
                pytest.raises(StoreBusyError),
                lease(open_objects(f"memory://{tmp_path}"), "train", wait=False),
            ):
                pass


def taken_over(objects: Objects, seconds: float = 60.0) -> bytes:
    """Write the record of another process as the holder of the lease."""
    record = {"id": "other", "holder": "process 1 on elsewhere", "expires": time.time() + seconds}
    text = json.dumps(record).encode()
    objects.put(".tmp/train.lease.json", text)
    return text


def test_the_last_to_write_gets_an_expired_lease(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An object store replaces silently, so each writer reads its record again after a while."""
    objects = open_objects(f"memory://{tmp_path}")
    taken_over(objects, seconds=-1.0)  # one that nobody renewed
    monkeypatch.setattr(module.time, "sleep", lambda _: taken_over(objects))
    with (
        pytest.raises(StoreBusyError, match="is being written by another process"),
        lease(objects, "train", wait=False),
    ):
        pytest.fail("both have the lease")


def test_a_lease_that_another_run_has_acquired_is_not_renewed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A suspended machine that wakes up must not take the lease from the new holder."""
    monkeypatch.setattr(module, "EXPIRY_SECONDS", 0.06)
    objects = open_objects(f"memory://{tmp_path}")
    record = module._RemoteLease(objects, "train")
    assert record.acquire() is None
    text = taken_over(objects)
    record._thread.join(10)  # it gives up by itself
    assert not record._thread.is_alive()
    assert objects.get(".tmp/train.lease.json") == text
    record.release()
    assert objects.get(".tmp/train.lease.json") == text


@pytest.mark.parametrize(
    "text", [b"[]", b"{}", b"[" * 100_000, b"\xff", b'{"id": 1, "expires": "x"}']
)
def test_an_invalid_lease_record_is_ignored(tmp_path: Path, text: bytes) -> None:
    """The record may have been written by any program."""
    objects = open_objects(f"memory://{tmp_path}")
    objects.put(".tmp/train.lease.json", text)
    assert module._RemoteLease(objects, "train")._holder() is None
