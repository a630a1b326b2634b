"""The addresses that only this machine can reach."""

from __future__ import annotations

from cluster.defaults import is_loopback


def test_loopback_addresses_are_distinguished_from_all_others() -> None:
    """Neither 0.0.0.0 nor a foreign name that begins with `localhost` is a loopback address."""
    assert all(map(is_loopback, ("127.0.0.1", "127.9.9.9", "::1", "localhost")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "", "10.0.0.1", "localhost.evil.example")))
