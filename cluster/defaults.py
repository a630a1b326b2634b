"""Numbers that a cluster takes unless told: for command lines, which must not wait for Dask."""

LOOPBACK = "127.0.0.1"
SCHEDULER_PORT = 8786
DASHBOARD_PORT = 8787
CERTIFICATE_DAYS = 30.0
"""How long a certificate is good for."""
