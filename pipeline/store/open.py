"""Opens the objects of a store, on a disk or an object store."""

from __future__ import annotations

import os
from pathlib import Path

from pipeline.errors import StoreError
from pipeline.store.local import LocalObjects
from pipeline.store.objects import Objects
from pipeline.urls import is_url


def open_objects(url: str, run: str = "reader") -> Objects:
    """Open the objects of a store, which need not exist yet; nothing is read or written.

    Args:
        url: The path or fsspec URL of the store, such as `/data/store` or `s3://bucket/prefix`. A
            path may begin with `~`; a relative one is made absolute.
        run: The name of this run's folder of temporary files on a disk: for a run that writes,
            which must call `begin` first, `<split>-<text without a hyphen>`, as
            `pipeline.ingest.planning.new_run` returns it (default: `reader`, for a process that
            only reads). An object store ignores it.

    Returns:
        A `LocalObjects` for a path or a `file://` URL, otherwise a `RemoteObjects`.

    Raises:
        StoreError: No installed package implements the protocol of the URL, the URL is not valid,
            or the path begins with `~` and the name of no user.
    """
    if is_url(url) and not url.startswith("file://"):
        from pipeline.store.remote import RemoteObjects  # fsspec only where it is needed

        return RemoteObjects(url)
    try:
        path = Path(url.removeprefix("file://")).expanduser()
    except RuntimeError as e:  # `~name` of a user that does not exist
        raise StoreError(f"cannot open {url}: {e}") from None
    return LocalObjects(os.path.abspath(path), run)  # noqa: PTH100 - links stay, `..` does not
