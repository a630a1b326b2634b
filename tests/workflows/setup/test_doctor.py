"""The doctor's findings and its advice."""

import errno
import json
import os
import socket
import subprocess
import sys
from types import SimpleNamespace

import pytest

from pipeline.images import crop_decode
from tests import lacking
from workflows.cli import command_of
from workflows.setup import doctor, machine
from workflows.setup.machine import Finding


def _run(*words):
    command, parser = command_of("doctor")
    return doctor.run_doctor(command.options[0].from_args(parser.parse_args(words)))


def test_all_checks_pass_in_the_test_environment(tmp_path, capsys):
    """The environment that runs the tests can prepare."""
    status = _run(str(tmp_path / "store"), "--json")

    document = json.loads(capsys.readouterr().out)
    assert [f for f in document["findings"] if f["state"] == "broken"] == []
    assert (status, document["ok"]) == (0, True)
    assert {f["subject"] for f in document["findings"]} >= {
        "Python", "modules", "Pillow", "libjpeg-turbo", "crop decoder", "formats", "packages",
        "torch", "GPU", "cores", "memory", "ports", "open files", "room", "fsync", "locks",
        "new names", "sockets",
    }  # fmt: skip
    assert list(tmp_path.iterdir()) == []


def test_modules_that_two_distributions_installed_are_broken(tmp_path, monkeypatch):
    """Another package called `cluster`, installed over ours, leaves a mixture of both."""
    for name, packages in (("tesserae", ("pipeline", "cluster")), ("clusters", ("cluster",))):
        record = tmp_path / f"{name}-1.0.dist-info" / "RECORD"
        record.parent.mkdir()
        record.write_text("".join(f"{package}/__init__.py,,\n" for package in packages))
    monkeypatch.setattr(doctor, "FOLDER", tmp_path)

    (finding,) = doctor.check_modules()

    assert finding.state == "broken"
    assert finding.found == f"cluster of clusters 1.0 and tesserae 1.0, in {tmp_path}"


def test_a_broken_finding_gives_exit_status_1(monkeypatch, capsys):
    """The plain lines name the finding and its advice."""
    findings = [Finding("a", "ok", "fine"), Finding("b", "broken", "bad [x]", "Mend it.")]
    monkeypatch.setattr(doctor, "run_checks", lambda store: findings)

    assert _run() == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines] == [
        ["ok", "a", "fine"], ["broken", "b", "bad", "[x]"], ["->", "Mend", "it."],
    ]  # fmt: skip


def test_the_document_is_all_that_is_printed_after_an_installation(monkeypatch, capsys):
    """A program reads the findings, and a person the lines of the steps."""
    monkeypatch.setattr(doctor, "replace_pillow", lambda prefix: sys.stdout.write("compiling"))
    monkeypatch.setattr(doctor, "run_checks", lambda store: [])

    assert _run("--install-pillow-simd", "--json") == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out) == {"ok": True, "findings": []}
    assert "compiling" in printed.err


def test_the_table_does_not_interpret_brackets(monkeypatch, capsys):
    """The name of a folder may look like rich's markup."""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(
        doctor, "run_checks", lambda store: [Finding("room", "note", "[red]/x", "!")]
    )

    assert _run() == 0
    output = capsys.readouterr().out
    assert "[red]/x" in output
    assert "-> !" in output


@pytest.mark.parametrize("terminal", [False, True])
def test_people_read_labels_and_programs_the_names_of_findings(monkeypatch, capsys, terminal):
    """The names in the JSON document are those of earlier versions."""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal, raising=False)
    findings = [Finding(name, "ok", "fine") for name in ("room", "locks", "new names", "fsync")]
    monkeypatch.setattr(doctor, "run_checks", lambda store: findings)

    assert _run() == 0
    lines = capsys.readouterr().out.splitlines()
    labels = ["free space", "file locks", "atomic create", "fsync"]
    assert [" ".join(line.split()[1:-1]) for line in lines] == labels
    assert _run("--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert [f["subject"] for f in document["findings"]] == ["room", "locks", "new names", "fsync"]


def test_a_failing_check_is_a_finding(monkeypatch, tmp_path):
    """Broken installations are what the doctor is for, so the other checks continue."""

    def fail():
        raise ImportError("no libjpeg.so.62")
        yield

    monkeypatch.setattr(doctor, "check_jpeg", fail)

    findings = doctor.run_checks(str(tmp_path))

    (jpeg,) = (f for f in findings if f.subject == "libjpeg-turbo")
    assert jpeg.state == "broken"
    assert "no libjpeg.so.62" in jpeg.found
    assert findings[-1].subject == "sockets"


@pytest.mark.parametrize(
    ("owners", "level", "avx2", "state", "says"),
    [
        (["pillow-simd 1"], "avx2", True, "ok", "AVX2"),
        (["pillow-simd 1"], "sse4", False, "ok", "SSE4"),
        (["pillow-simd 1"], "sse4", True, "note", "has AVX2"),
        (["pillow-simd 1"], "avx2", False, "broken", "no AVX2"),
        (["pillow 1"], "none", True, "note", "several times faster"),
        (["pillow 13", "pillow-simd 1"], "none", True, "broken", "overwritten"),
    ],
)
def test_a_pillow_is_judged_by_owner_binary_and_cpu(owners, level, avx2, state, says):
    """Two owners, or code that this CPU cannot run, would stop or falsify a run."""
    finding = doctor.pillow_finding(owners, level, avx2=avx2, why_stock="")

    assert finding.state == state
    assert says in f"{finding.found} {finding.advice}"
    assert bool(finding.advice) == (state != "ok")


def test_the_reason_for_stock_pillow_is_repeated():
    """The setup recorded the reason."""
    finding = doctor.pillow_finding(["pillow 1"], "none", avx2=True, why_stock="there is no gcc")

    assert finding.found.startswith("STOCK")
    assert "there is no gcc" in finding.found


def test_an_unreadable_format_is_a_finding_with_its_package(monkeypatch):
    """Images of the format would be quarantined; without JPEG nothing works at all."""
    from PIL import features

    monkeypatch.setattr(features, "check", lambda name: name != "webp")
    (finding,) = doctor.check_formats()
    assert (finding.state, "libwebp-dev" in finding.advice) == ("note", True)

    monkeypatch.setattr(features, "check", lambda name: name != "jpg")
    (finding,) = doctor.check_formats()
    assert finding.state == "broken"


def test_a_missing_extension_is_a_finding_with_what_it_needs(monkeypatch):
    """Loaders work without it, several times slower."""
    extension = SimpleNamespace(LIBJPEG_TURBO="2.1.5", AVX2=1)
    monkeypatch.setattr(crop_decode, "_jpeg_crop", extension)
    (finding,) = doctor.check_crop_decoder()
    assert (finding.state, finding.advice) == ("ok", "")
    assert "libjpeg-turbo 2.1.5, AVX2" in finding.found

    monkeypatch.setattr(crop_decode, "_jpeg_crop", None)
    (finding,) = doctor.check_crop_decoder()
    assert (finding.state, "libjpeg-dev" in finding.advice) == ("note", True)
    assert finding.found.startswith("simplejpeg ")


def test_versions_are_compared_with_those_tested(monkeypatch):
    """Another version is a note; one that Tesserae excludes, and a missing one, are broken."""
    tested = doctor.tested_versions()
    monkeypatch.setattr(doctor, "installed_version", lambda name: tested[name])
    (finding,) = doctor.check_packages()
    assert finding.state == "ok"

    monkeypatch.setattr(doctor, "installed_version", lambda name: f"{tested[name]}.post9")
    (finding,) = doctor.check_packages()
    assert finding.state == "note"
    assert f"zarr {tested['zarr']}" in finding.advice

    other = {**tested, "zarr": "4.1"}
    monkeypatch.setattr(doctor, "installed_version", other.get)
    (finding,) = doctor.check_packages()
    assert finding.state == "broken"
    assert "zarr<4,>=3.1.6" in finding.advice

    monkeypatch.setattr(doctor, "installed_version", lambda name: "")
    (finding,) = doctor.check_packages()
    assert finding.state == "broken"


def test_a_wheel_has_no_tested_versions(tmp_path, monkeypatch):
    """What pip installed is compared with what Tesserae requires."""
    monkeypatch.setattr(doctor, "ROOT", tmp_path)
    (finding,) = doctor.check_packages()
    assert finding.state == "ok"
    assert "tested" not in finding.found

    monkeypatch.setattr(doctor, "installed_version", lambda name: "" if name == "zarr" else "99")
    monkeypatch.setattr(doctor, "uses_make", lambda: False)
    monkeypatch.setattr(doctor, "required_versions", lambda: {"zarr": ">=3.1.6", "numpy": ">=2"})
    (finding,) = doctor.check_packages()
    assert (finding.state, "needs zarr>=3.1.6:" in finding.advice) == ("broken", True)


def test_the_doctor_loads_no_torch():
    """The version of torch is read from its metadata."""
    code = (
        "import sys, workflows.setup.doctor as d; list(d.check_torch());"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True, text=True, check=True, cwd=doctor.ROOT, timeout=60,
    )  # fmt: skip

    assert done.stdout == "False\n"


def _tool(tmp_path, monkeypatch, script):
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\n{script}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")


def test_every_gpu_is_listed(tmp_path, monkeypatch):
    """Each GPU has a line with the driver's description."""
    _tool(tmp_path, monkeypatch, "echo 'A, 10 MiB, 1'; echo 'B, 20 MiB, 1'")

    assert [f.found for f in machine.check_gpu()] == ["A, 10 MiB, 1", "B, 20 MiB, 1"]


def test_a_failing_driver_is_a_note(tmp_path, monkeypatch):
    """Preparation needs no GPU."""
    _tool(tmp_path, monkeypatch, "echo broken; exit 9")

    assert [f.state for f in machine.check_gpu()] == ["note"]


def test_a_port_in_use_is_a_note(monkeypatch):
    """The check tries to listen on the port, as a cluster would."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]

        assert not machine.is_free(port)
        monkeypatch.setattr(machine, "PORTS", {port: "a test"})
        finding = next(iter(machine.check_ports()))
        assert (finding.state, str(port) in finding.found) == ("note", True)

    assert machine.is_free(port)


LISTEN = """
import socket, sys
server = socket.socket()
server.bind((sys.argv[1], 0))
server.listen()
print(server.getsockname()[1], flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize(
    ("host", "word", "seen"),
    [
        ("0.0.0.0", "dask", True),
        ("0.0.0.0", "/srv/bin/tesserae", True),
        ("127.0.0.1", "dask", False),
        ("0.0.0.0", "/srv/tesserae/other", False),
    ],
)
def test_a_dask_that_listens_on_all_interfaces_is_found(host, word, seen):
    """Everybody who reaches it could run code, unlike on the loopback address."""
    with subprocess.Popen(
        [sys.executable, "-c", LISTEN, host, word], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        try:
            assert ((process.pid, port) in set(machine.public_dask_servers())) == seen
        finally:
            process.communicate()


def test_a_low_limit_of_open_files_is_a_note(monkeypatch):
    """The advice has the command that raises the limit."""
    monkeypatch.setattr(machine.resource, "getrlimit", lambda resource: (256, 4096))

    (finding,) = machine.check_open_files()

    assert (finding.state, finding.found) == ("note", "256 (hard limit 4096)")
    assert "ulimit -n 1024" in finding.advice


def test_too_little_memory_is_a_note_with_the_number_of_workers_that_fit(monkeypatch):
    """A worker may need 1.2 GB."""
    import cluster.limits
    from pipeline import memory

    monkeypatch.setattr(cluster.limits, "cores", lambda: 8)
    monkeypatch.setattr(memory, "limit_bytes", lambda: 4_000_000_000)

    finding = list(machine.check_cores_and_memory())[1]

    assert (finding.state, "WORKERS=3" in finding.advice) == ("note", True)


def test_free_space_is_checked_at_the_stores_location(tmp_path):
    """The nearest existing folder is checked, and no file remains."""
    findings = list(machine.check_store_disk(str(tmp_path / "not" / "yet")))

    assert [f.subject for f in findings] == ["room", "fsync", "locks", "new names", "sockets"]
    assert str(tmp_path) in findings[0].found
    assert list(tmp_path.iterdir()) == []


def test_a_store_that_is_a_file_is_broken(tmp_path):
    """A store's path that is a file would fail in `tesserae prepare`, too."""
    (tmp_path / "file").touch()
    (finding,) = machine.check_store_disk(str(tmp_path / "file"))

    assert (finding.state, finding.found) == ("broken", f"{tmp_path / 'file'} is a file")


def test_an_object_store_is_not_checked_for_free_space():
    """An object store has no limit, and a request would need its credentials."""
    (finding,) = machine.check_store_disk("s3://bucket/store")

    assert finding.state == "ok"


def test_a_missing_folder_cannot_be_synced(tmp_path):
    """The finding has the system's error."""
    finding = machine.check_sync(tmp_path / "gone")

    assert finding.state == "broken"
    assert "No such file" in finding.found


def test_missing_file_system_calls_are_notes(tmp_path, monkeypatch):
    """The findings name the substitutes for locks and for exclusive names."""
    plain = {f.subject: f for f in machine.check_store_disk(str(tmp_path))}
    assert (plain["locks"].state, plain["locks"].found) == ("ok", "by flock")
    assert (plain["new names"].state, plain["new names"].found) == ("ok", "by link")

    lacking.remove(lacking.SMB, monkeypatch.setattr)
    share = {f.subject: f for f in machine.check_store_disk(str(tmp_path))}
    assert share["fsync"].state == "ok"
    assert (share["locks"].state, share["locks"].found) == ("note", "by files created exclusively")
    assert "-o flock" in share["locks"].advice
    assert (share["new names"].state, share["new names"].found) == (
        "note",
        "by a rename under a lock",
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("number", "says"), [(errno.EROFS, "mounted read-only"), (errno.EDQUOT, "Your quota")]
)
def test_an_unwritable_folder_is_broken_with_the_errnos_advice(tmp_path, monkeypatch, number, says):
    """A read-only disk and a full one each get their own advice."""
    monkeypatch.setattr(machine.os, "fsync", lacking._fail(number))
    finding = machine.check_sync(tmp_path)
    assert finding.state == "broken"
    assert says in finding.advice


def test_the_socket_folder_is_reported(tmp_path, monkeypatch):
    """A long TMPDIR is skipped, and it is broken if no other folder supports sockets."""
    monkeypatch.setattr(machine.tempfile, "tempdir", str(tmp_path / ("x" * 90)))
    assert "is too long for sockets" in machine.check_sockets().found
    monkeypatch.setattr("cluster.sockets.SHORT_FOLDERS", ())
    assert machine.check_sockets().state == "broken"
