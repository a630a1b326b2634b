"""The folder in which the processes of a Slurm step meet."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster import certificates
from cluster.errors import ClusterError
from cluster.slurm import allocation
from cluster.slurm.profile import Profile


def test_foreign_files_in_the_folder_of_a_step_are_kept(tmp_path):
    """The folder is in a shared one, and its name is just a number."""
    folder = tmp_path / "17.0"
    certificates.write_certificates(folder, certificates.create_certificates())
    (folder / allocation.ADDRESS_FILE).write_text("tls://here")
    (folder / "results").write_text("mine")
    allocation._remove_step_files(folder)
    assert [path.name for path in folder.iterdir()] == ["results"]
    (folder / "results").unlink()
    allocation._remove_step_files(folder)
    assert not folder.exists()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / allocation.ADDRESS_FILE).write_text("mine")
    folder.symlink_to(tmp_path / "elsewhere")
    allocation._remove_step_files(folder)
    assert (tmp_path / "elsewhere" / allocation.ADDRESS_FILE).read_text() == "mine"


def test_a_first_process_that_has_ended_before_its_address_was_read_is_an_error(
    tmp_path, monkeypatch
):
    """It removes the file, which may happen between any two looks at it."""
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    monkeypatch.setenv("SLURM_STEP_ID", "0")
    monkeypatch.setattr(allocation, "ADDRESS_TIMEOUT_SECONDS", 0.0)
    monkeypatch.setattr(Path, "exists", lambda _: True)
    with pytest.raises(ClusterError, match="did not publish its address"):
        allocation.wait_for_scheduler(Profile(way="allocation", shared=str(tmp_path)))
