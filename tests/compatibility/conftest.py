"""The fixture of all tests of what earlier versions wrote."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.compatibility.bundles import BUNDLES, Bundle, unpack


@pytest.fixture(params=BUNDLES)
def bundle(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Bundle:
    """Return each bundle, unpacked into the working directory."""
    unpack(request.param, tmp_path)
    monkeypatch.chdir(tmp_path)
    return Bundle(request.param, tmp_path, monkeypatch)
