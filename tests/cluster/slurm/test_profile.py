"""The profile of a site: its keys and their values."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.errors import ClusterError
from cluster.slurm.profile import read_profile


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[]", "is not a valid key"),
        ("{", "cannot be read"),
        ("speed: 9", "'speed' is not a valid key"),
        ("way: wings", "way is 'wings'"),
        ("way: jobs", "jobs is empty"),
        ("jobs: 3", "jobs is 3"),
        ("jobs: {cpu: {count: 1, memory: 1GB}}", "cores is missing"),
        ("jobs: {cpu: {count: 1, cores: null, memory: 1GB}}", "cores is missing"),
        ("jobs: {cpu: {count: 1, cores: 0, memory: 1GB}}", "cores is 0"),
        ("jobs: {cpu: {count: 1, cores: true, memory: 1GB}}", "cores is True"),
        ("jobs: {cpu: {count: 1, cores: 1, memory: -4GB}}", "memory is '-4GB'"),
        ("jobs: {cpu: {count: 1, cores: 1, memory: '4'}}", "memory is '4': expected a number and"),
        ("jobs: {cpu: {count: 1, cores: 1, memory: 4XB}}", "memory is '4XB'"),
        ("jobs: {cpu: {count: 1, cores: 1, memory: nanGB}}", "memory is 'nanGB'"),
        ("jobs: {cpu: {count: 1, cores: 1, memory: 12B}}", "memory is '12B'"),
        ("jobs: {cpu: {count: 1, cores: 1, memory: ''}}", "memory is ''"),
        ("jobs: {cpu: {count: 1, cores: 1, memory: false}}", "memory is False"),
        ("jobs: {cpu: {count: 1, cores: 1, memory: [1GB]}}", "memory is"),
        ("jobs: {cpu: {count: 1, cores: 1, account: [a]}}", "account is"),
        ('jobs: {cpu: {count: 1, cores: 1, partition: "a\\nb"}}', "partition is"),
        ("shared: 3\njobs: {cpu: {count: 1, cores: 1}}", "shared is 3"),
        ("host: ''\njobs: {cpu: {count: 1, cores: 1}}", "host is ''"),
        ("jobs: {cpu: {count: -1, cores: 1, memory: 1GB}}", "count is -1"),
        (
            "jobs: {cpu: {count: 1, cores: 1, memory: 1GB, colour: red}}",
            "'colour' is not a valid key",
        ),
        ("jobs: {cpu: {count: 1, cores: 1, memory: 4}}", "memory is 4"),
        ("jobs: {cpu: {count: 1, cores: 1, memory: lots}}", "memory is 'lots'"),
        ("jobs: {cpu: {count: 0, cores: 1, memory: 1GB}}", "count is 0 for every kind"),
        ("jobs: {cpu: {count: 1, cores: 1, memory: 1GB, walltime: 10:00:00}}", "walltime is 36000"),
        ("jobs: {cpu: {count: 1, cores: 1, memory: 1GB, walltime: soon}}", "walltime is 'soon'"),
        ("jobs: {cpu: {count: 1, cores: 1, memory: 1GB, directives: --x}}", "expected a list"),
        ("prologue: module load gcc\njobs: {}", "expected a list of lines"),
        ("container: ''\njobs: {cpu: {count: 1, cores: 1}}", "container is ''"),
        ("container: 3\njobs: {cpu: {count: 1, cores: 1}}", "container is 3"),
        ("container: [podman, 3]\njobs: {cpu: {count: 1, cores: 1}}", "container is"),
        ("container: a 'b\njobs: {cpu: {count: 1, cores: 1}}", "container is .*expected the comm"),
        ("container: apptainer exec x\nway: allocation", "with way: allocation, run the container"),
        (
            "jobs: {cpu: {count: 1, cores: 1, memory: 1GB, least: 2}}",
            "least is 2: expected at most count, 1",
        ),
        (
            "jobs: {cpu: {count: 1, cores: 1, memory: 1GB, gpus: 1, least: 1}}",
            "least is set: expected",
        ),
    ],
)
def test_an_invalid_profile_is_refused(tmp_path: Path, text: str, says: str) -> None:
    """The error has the key and the value."""
    file = tmp_path / "profile.yaml"
    file.write_text(text)
    with pytest.raises(ClusterError, match=says):
        read_profile(file)


@pytest.mark.parametrize(
    "line", ["apptainer exec '/my images/a.sif'", "[apptainer, exec, /my images/a.sif]"]
)
def test_a_container_is_a_line_or_a_list(tmp_path: Path, line: str) -> None:
    """A line is divided as a shell divides it."""
    file = tmp_path / "profile.yaml"
    file.write_text(f"container: {line}\njobs: {{cpu: {{count: 1, cores: 1}}}}\n")
    assert list(read_profile(file).container) == ["apptainer", "exec", "/my images/a.sif"]
