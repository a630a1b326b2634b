"""The folder in which the processes of a Slurm step meet."""

from __future__ import annotations

from cluster import certificates
from cluster.slurm import allocation


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
