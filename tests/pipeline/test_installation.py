"""What is installed, and what a user is told to install: by make or by pip."""

import importlib
import re
import sys
import tomllib
from pathlib import Path

import pytest

import tesserae
from pipeline import installation
from pipeline.errors import StoreError
from pipeline.installation import (
    DISTRIBUTION,
    EXTRAS,
    ROOT,
    command_path,
    install_advice,
    installed_version,
    missing_filesystem,
    reinstall_advice,
    uses_make,
)
from pipeline.store.open import open_objects


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of a checkout, in whose environment this is run."""
    root = tmp_path / "checkout"
    root.mkdir()
    (root / "Makefile").touch()
    monkeypatch.setattr(installation, "ROOT", root)
    monkeypatch.setattr(sys, "prefix", str(root / ".venv"))
    return root


def test_a_checkout_is_set_up_by_make(checkout: Path) -> None:
    """The environment is the one that `make setup` makes."""
    assert install_advice("train") == "run `make setup EXTRAS=train`"
    assert reinstall_advice() == "run `make clean setup`"
    assert command_path() == ".venv/bin/tesserae"


def test_a_checkout_may_be_reached_through_a_link(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python names the folder of the environment as the user did, and modules by their own path."""
    link = checkout.with_name("link")
    link.symlink_to(checkout)
    monkeypatch.setattr(sys, "prefix", str(link / ".venv"))
    assert uses_make()


def test_an_environment_of_pip_is_extended_by_pip(checkout: Path) -> None:
    """A wheel has no Makefile."""
    (checkout / "Makefile").unlink()
    assert install_advice("s3") == "run `pip install 'tesserae-images[s3]'`"
    assert reinstall_advice() == "install tesserae-images in a new virtual environment"
    assert command_path() == "tesserae"


def test_a_checkout_may_be_installed_in_another_environment(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After `pip install --editable .`, `make setup` would make an environment beside it."""
    monkeypatch.setattr(sys, "prefix", "/opt/conda/envs/mine")
    monkeypatch.setattr(installation, "installed_version", lambda name: "0.1.0")
    assert not uses_make()
    monkeypatch.setattr(installation, "installed_version", lambda name: "")
    assert uses_make(), "a checkout that is run without having been installed"


def test_every_extra_that_is_advised_exists() -> None:
    """The name on the package index and the extras are those of pyproject.toml."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["name"] == DISTRIBUTION
    extras = project["optional-dependencies"]
    assert set(EXTRAS.values()) <= set(extras)
    (everything,) = extras["all"]
    named = re.fullmatch(rf"{DISTRIBUTION}\[(.*)\]", everything)
    assert named is not None
    assert set(named[1].split(",")) == set(extras) - {"all"}


def test_the_version_of_tesserae_is_that_of_its_own_distribution(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another project is called `tesserae` on the package index, and may be installed too."""
    info = tmp_path / "tesserae-99.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: tesserae\nVersion: 99\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert installed_version("tesserae") == tesserae.__version__ != "99"
    assert installed_version("no-such-distribution") == ""


def test_a_url_whose_library_is_missing_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where Tesserae has no extra for the library, fsspec's own advice remains."""
    monkeypatch.setitem(sys.modules, "s3fs", None)
    known = importlib.import_module("fsspec.registry")._registry
    monkeypatch.delitem(known, "s3", raising=False)
    with pytest.raises(StoreError, match=r"cannot open s3://a: Install s3fs.*: run `.*\bs3\b"):
        open_objects("s3://a")
    assert missing_filesystem(ImportError("Install gcsfs.")) == "Install gcsfs"
