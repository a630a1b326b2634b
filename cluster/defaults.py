"""Default values of cluster options, in a module that command lines can import without Dask."""

LOOPBACK = "127.0.0.1"
SCHEDULER_PORT = 8786
DASHBOARD_PORT = 8787
CERTIFICATE_DAYS = 30.0
"""The validity of a certificate in days."""
