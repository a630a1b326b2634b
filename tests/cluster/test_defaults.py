"""The addresses that only this machine can reach."""

from __future__ import annotations

from cluster.defaults import is_loopback


def test_a_loopback_address_is_in_no_other_network() -> None:
    """Neither an address of all interfaces nor a name that begins like this machine's is one."""
    assert all(map(is_loopback, ("127.0.0.1", "127.9.9.9", "::1", "localhost")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "", "10.0.0.1", "localhost.evil.example")))
