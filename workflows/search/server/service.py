"""The state that all request handlers share, and its limits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cluster.limits import cores
from workflows.search.engine import Engine
from workflows.search.server.connections import Connections
from workflows.search.server.security import Guard
from workflows.search.server.thread_pool import BoundedThreadPool
from workflows.search.server.uploads import UploadCache

PAGE = Path(__file__).parents[1] / "page"
FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/search.js": ("search.js", "text/javascript; charset=utf-8"),
    "/search.css": ("search.css", "text/css; charset=utf-8"),
}
MAX_UPLOADS = 4
"""The number of images that may be uploaded at the same time."""
MAX_CONNECTIONS = 256
"""The number of open connections; beyond it the one idle for longest is closed."""


class SearchService:
    """The state that all handlers share: the engine, thread pools, uploads and page files."""

    def __init__(
        self, engine: Engine, host: str, *, csls: bool, allowed_hosts: Sequence[str] = ()
    ) -> None:
        """Create the state; no thread or child process starts yet.

        Args:
            engine: The engine that searches.
            host: The name or address that the server listens on.
            csls: True if the engine has measured hubs, so that requests may ask for CSLS.
            allowed_hosts: Further names of the server, such as that of a reverse proxy.

        Raises:
            ValueError: One of *allowed_hosts* is no host name or address.
        """
        self.engine = engine
        self.csls = csls
        self.guard = Guard(host, allowed_hosts)
        self.connections = Connections(lambda: MAX_CONNECTIONS)
        self.upload_cache = UploadCache(engine)
        self.uploading = 0
        self.downloading = 0
        self.searches = BoundedThreadPool(
            "search", threads=max(2, cores()), max_waiting=64, timeout_seconds=10
        )
        self.thumbs = BoundedThreadPool("thumb", threads=2, max_waiting=512, timeout_seconds=10)
        self.uploads = BoundedThreadPool(
            "upload", threads=2, max_waiting=MAX_UPLOADS, timeout_seconds=30
        )
        self.downloads = BoundedThreadPool("download", threads=1, max_waiting=4, timeout_seconds=60)
        self.files = {
            url: ((PAGE / name).read_bytes(), kind) for url, (name, kind) in FILES.items()
        }

    def close(self) -> None:
        """Wait for running calls, and end the child processes."""
        for pool in (self.searches, self.thumbs, self.uploads, self.downloads):
            pool.close()
        self.upload_cache.close()
