"""The default values of cluster options."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.defaults import is_loopback, xdg_folder


def test_loopback_addresses_are_distinguished_from_all_others() -> None:
    """Neither 0.0.0.0 nor a foreign name that begins with `localhost` is a loopback address."""
    assert all(map(is_loopback, ("127.0.0.1", "127.9.9.9", "::1", "localhost")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "", "10.0.0.1", "localhost.evil.example")))


@pytest.mark.parametrize(
    ("value", "expected"),
    [("/etc/xdg", "/etc/xdg"), ("relative", "/home/me/.config"), ("", "/home/me/.config")],
)
def test_a_relative_xdg_folder_is_ignored(
    monkeypatch: pytest.MonkeyPatch, value: str, expected: str
) -> None:
    """Programs in the background have another working folder, and would not find it."""
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("XDG_CONFIG_HOME", value)
    assert xdg_folder("XDG_CONFIG_HOME", ".config") == Path(expected)
