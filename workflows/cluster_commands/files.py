"""The implementation of `tesserae cluster certs` and `units`: the files of a cluster."""

from __future__ import annotations

from cluster import certificates
from cluster.processes import systemd
from pipeline.errors import TesseraeError
from workflows.cluster_commands.options import CertsOptions, UnitsOptions


def certs(options: CertsOptions) -> int:
    """Create a certificate authority, a certificate for each role and a token, and print a summary.

    Args:
        options: The parsed options: `certs` (the folder; None for the user's own one), `hosts`
            (names and addresses by which browsers reach the dashboard), `days` (the validity, more
            than 0 and at most 3,650), `renew` (True to replace existing files) and `insecure`,
            which must be False.

    Returns:
        The exit status, 0; errors are raised.

    Raises:
        TesseraeError: The folder holds certificates already, and the options lack `--renew`.
        ClusterError: A name in `hosts` is not ASCII, or the file system does not support
            permissions.
        ValueError: The options have `--insecure`, or `days` is out of range.
        OSError: The folder cannot be written to, or is a file.
    """
    if options.insecure:
        raise ValueError("--insecure cannot be combined with `certs`: it means no certificates.")
    folder = certificates.resolve_folder(options.certs)
    files = certificates.create_certificates(hosts=options.hosts, days=options.days)
    try:
        certificates.write_certificates(folder, files, replace=options.renew)
    except FileExistsError:
        raise TesseraeError(
            f"{folder} already holds certificates. Pass another folder with --certs, or --renew to"
            " replace them; a running cluster does not accept replaced certificates."
        ) from None
    until = certificates.certificate_expiry(folder / certificates.AUTHORITY)
    print(f"{folder}: valid until {until:%Y-%m-%d %H:%M} UTC")
    print("  scheduler.*  stays on the scheduler's machine, together with token")
    print("  worker.*     goes to the machines of the workers, together with ca.pem")
    print("  client.*     goes to the machines that run commands, together with ca.pem")
    return 0


def units(options: UnitsOptions) -> int:
    """Write systemd units for a scheduler and for workers, and print their paths.

    Args:
        options: The parsed options: `folder` (an existing one, where the units are written),
            `address` (that of the scheduler), `user` and `certs` (the folder of certificates on
            each machine; a relative path is made absolute here).

    Returns:
        The exit status, 0; errors are raised.

    Raises:
        ClusterError: The address is not that of a scheduler.
        ValueError: The user or the folder of certificates contains characters of systemd's syntax.
        OSError: A file cannot be written.
    """
    certs = options.certs.absolute()
    for path in systemd.write_units(options.folder, options.address, options.user, certs):
        print(path)
    print("  next: systemctl daemon-reload, then systemctl enable --now the unit of each machine")
    return 0
