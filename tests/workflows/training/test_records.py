"""Tests that the files of a foreign run are validated, and that nothing outside is touched."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.errors import StoreError, TesseraeError
from tests.hostile import mutated
from workflows.training import records, writing
from workflows.training.records import RunFileError
from workflows.training.run_folder import Checkpoint, RunFolder

OPTIONS = {
    "versions": {"torch": "2"},
    "data": {
        "store": "store",
        "split": "train",
        "size": 32,
        "features": None,
        "held_out": "val",
        "classes": ["church"],
        "wnids": ["n03028079"],
    },
    "options": {"stage": "wgan", "steps": 10, "learning_rate": 1e-4, "ema_decay": None},
}
LINES = [
    {"step": 1, "generation": 1, "loss": 0.5},
    {"what": "look", "step": 1, "generation": 1, "train_distance": 3.5},
    {"what": "diverged", "step": 2, "generation": 1, "why": "the loss is not finite"},
]


@pytest.fixture
def victim(tmp_path):
    """Return a folder outside of the run, with a file."""
    folder = tmp_path / "victim"
    folder.mkdir()
    (folder / "keys").write_text("mine")
    return folder


@pytest.fixture
def run(tmp_path):
    """Return a run that was begun."""
    folder = RunFolder(tmp_path / "run")
    folder.create_or_continue(
        OPTIONS["options"], {key: OPTIONS[key] for key in ("versions", "data")}
    )
    return folder


@given(mutated(OPTIONS))
@example(json.dumps({"options": {}}).encode())
@example(json.dumps({"options": {}, "data": {}}).encode())
def test_options_are_valid_or_refused(tmp_path_factory, text):
    """Any damaged value is refused with a message, or has its type."""
    file = tmp_path_factory.mktemp("run") / "options.json"
    file.write_bytes(text)
    try:
        record = RunFolder(file.parent).read_options()
        data = RunFolder(file.parent).data()
    except TesseraeError as e:
        assert str(file.parent) in str(e)  # noqa: PT017 - it may be valid
        return
    assert isinstance(record["options"].get("steps", 0), int)
    assert all(isinstance(data[name], str) for name in ("store", "split"))
    assert type(data["size"]) is int
    assert 1 <= data["size"] <= 4096
    assert all(isinstance(words, str) for words in data["classes"])


@given(st.sampled_from(LINES).flatmap(mutated))
def test_metrics_are_read_or_refused(tmp_path_factory, text):
    """A torn line is skipped, and an invalid line is refused with its number."""
    file = tmp_path_factory.mktemp("run") / "metrics.jsonl"
    file.write_bytes(json.dumps(LINES[0]).encode() + b"\n" + text.replace(b"\n", b" ") + b"\n")
    try:
        lines = RunFolder(file.parent).metrics()
    except RunFileError as e:
        assert "metrics.jsonl is damaged: line 2: " in str(e)  # noqa: PT017 - it may be valid
        return
    for line in lines:
        assert type(line["step"]) is int
        float(sum(v for v in line.values() if type(v) in (int, float)))


@given(mutated({"resumed": "000001-000000000010"}) | mutated({"resumed": None}))
def test_claims_are_read_or_refused(tmp_path_factory, text):
    """The search for the newest checkpoint ends, whatever the claims contain."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "generations").mkdir()
    (folder / "checkpoints").mkdir()
    (folder / "generations" / "000001.json").write_bytes(text)
    (folder / "generations" / "abcdef.json").write_bytes(text)
    try:
        assert RunFolder(folder).newest_checkpoint() is None
    except RunFileError as e:
        assert "000001.json is damaged" in str(e)  # noqa: PT017 - it may be valid


@given(mutated({"blake2b": "0" * 32, "step": 7}))
def test_a_checkpoint_with_an_invalid_record_is_ignored(tmp_path_factory, text):
    """A checkpoint with an invalid record is not resumed."""
    folder = tmp_path_factory.mktemp("run")
    for name in ("generations", "checkpoints"):
        (folder / name).mkdir()
    (folder / "generations" / "000001.json").write_text('{"resumed": null}')
    (folder / "checkpoints" / "000001-000000000007.json").write_bytes(text)
    (folder / "checkpoints" / "000001-000000000007.pt").write_bytes(b"")
    (folder / "checkpoints" / "x.json").write_bytes(text)
    assert RunFolder(folder).newest_checkpoint() is None
    assert RunFolder(folder).checkpoint_steps() == []


@given(mutated({"host": "127.0.0.1", "port": 1234}))
def test_the_address_of_ranks_is_valid_or_refused(tmp_path_factory, text):
    """An invalid address is refused before a socket gets it."""
    file = tmp_path_factory.mktemp("run") / "000001.json"
    file.write_bytes(text)
    try:
        address = records.read_rendezvous(file)
    except RunFileError:
        return
    assert isinstance(address.host, str)
    assert 1 <= address.port <= 65_535


def test_a_cycle_of_generations_has_no_checkpoint(run):
    """The search for the newest checkpoint ends, although each generation resumes another."""
    claims = run.path / "generations"
    (claims / "000001.json").write_text('{"resumed": "000002-000000000001"}')
    (claims / "000002.json").write_text('{"resumed": "000002-000000000001"}')
    assert run.newest_checkpoint() is None
    (claims / "000002.json").write_text('{"resumed": "000009-000000000001"}')
    assert run.newest_checkpoint() is None


def test_a_file_that_is_no_checkpoint_is_refused(run):
    """A file that torch cannot load is refused with a message, and no code in it runs."""
    file = run.path / "checkpoints" / "000001-000000000001.pt"
    for data in (b"", b"cos\nsystem\n(S'touch /tmp/x'\ntR.", b"PK\x03\x04"):
        file.write_bytes(data)
        with pytest.raises(TesseraeError, match="is not a checkpoint of a run"):
            run.load(Checkpoint(1, 1))


@pytest.mark.parametrize("name", ["checkpoints", "generations", "meetings", "samples"])
def test_a_linked_subfolder_of_a_run_is_refused(run, victim, name):
    """The error is raised before files are written or removed in the folder."""
    (victim / "000001-000000000001.new").write_text("mine")
    if (run.path / name).exists():
        (run.path / name).rmdir()
    (run.path / name).symlink_to(victim)
    for step in (
        run.claim,
        lambda: run.create_or_continue(OPTIONS["options"], {}),
        lambda: run.discard([]),
    ):
        with pytest.raises(StoreError, match="by a symbolic link"):
            step()
    assert sorted(path.name for path in victim.iterdir()) == ["000001-000000000001.new", "keys"]


def test_links_in_place_of_files_are_not_followed(run, victim):
    """Linked options and temporary files are replaced, and linked metrics are refused."""
    (run.path / "options.new").symlink_to(victim / "keys")
    run.create_or_continue({**OPTIONS["options"], "steps": 20}, {}, changeable_on_resume=["steps"])
    assert run.read_options()["options"]["steps"] == 20
    assert not (run.path / "options.new").is_symlink()
    (run.path / "metrics.jsonl").symlink_to(victim / "keys")
    with pytest.raises(TesseraeError, match=r"metrics\.jsonl is a symbolic link"):
        run.log({"step": 1})
    (run.path / "report.html").symlink_to(victim / "keys")
    writing.write(run.path / "report.html", b"<p>")
    assert (run.path / "report.html").read_bytes() == b"<p>"
    assert (victim / "keys").read_text() == "mine"


def test_a_leftover_address_is_removed(run):
    """A leftover address is removed, since ranks would connect to it."""
    (run.path / "meetings").mkdir()
    left = run.path / "meetings" / "000001.json"
    left.write_text('{"host": "203.0.113.1", "port": 80}')
    number, _ = run.claim()
    assert number == 1
    assert not left.exists()
