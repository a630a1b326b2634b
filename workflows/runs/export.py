"""The implementation of `tesserae export`, of a run or of a store."""

from __future__ import annotations

from workflows.runs.options import ExportOptions


def run_export(options: ExportOptions) -> int:
    """Export the network of a run, or the rows of a store, for which torch need not be installed.

    Args:
        options: With `to`, those of `run_export_store`; otherwise those of `run_export_network`,
            which document them and the errors.

    Returns:
        The exit status, 0.
    """
    if options.to is not None:
        from workflows.runs.export_store import run_export_store

        return run_export_store(options)
    from workflows.runs.export_network import run_export_network

    return run_export_network(options)
