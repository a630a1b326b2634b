"""The images that clients upload: decoded in child processes, cached for a while as vectors."""

from __future__ import annotations

import hashlib
import threading
from dataclasses import dataclass

import numpy as np
from cachetools import LRUCache
from numpy.typing import NDArray

from workflows.reports.images import encode_jpeg
from workflows.search.engine import Engine
from workflows.search.query_image import ImagePreprocessor

MAX_CACHED_UPLOADS = 256
"""The number of uploads in the cache, of about 20 kB each."""


@dataclass(frozen=True)
class Upload:
    """An uploaded image in the cache."""

    name: str
    """The name that requests it: a digest of its bytes, which another client cannot guess."""
    vector: NDArray[np.float32]
    """The unit vector of the image, (dim,) float32."""
    jpeg: bytes
    """The square image that the model took, as JPEG."""


class UploadCache:
    """A cache of the uploads of a server, the most recently used ones. It is thread-safe."""

    def __init__(self, engine: Engine) -> None:
        """Create an empty cache; child processes start with the first upload.

        Args:
            engine: The engine that embeds images.
        """
        self._engine = engine
        # A child process serves one thread, so that decodes in different threads do not wait for
        # each other; the list is for `close`, which runs in yet another thread.
        self._local = threading.local()
        self._preprocessors: list[ImagePreprocessor] = []
        self._uploads: LRUCache[str, Upload] = LRUCache(MAX_CACHED_UPLOADS)
        self._lock = threading.Lock()

    def add(self, data: bytes) -> Upload:
        """Decode and embed an image file, and cache the result.

        Bytes that are in the cache are not decoded again. Beyond 256 uploads the least recently
        used one is evicted.

        Args:
            data: The bytes of the file.

        Returns:
            The upload: `name` (32 hexadecimal digits, the same for the same bytes), `vector` (the
            unit vector of the image, (dim,) float32) and `jpeg` (the square image that the model
            took, as the bytes of a JPEG file).

        Raises:
            QueryError: The file is no readable image of a supported format.
        """
        name = hashlib.blake2b(data, digest_size=16).hexdigest()
        cached = self.get(name)
        if cached is not None:
            return cached
        pixels = self._preprocessor().preprocess(data)
        upload = Upload(name, self._engine.embed(pixels), encode_jpeg(pixels))
        # The lock is not held while an image is decoded: two equal uploads may both be decoded.
        with self._lock:
            self._uploads[name] = upload
        return upload

    def get(self, name: str) -> Upload | None:
        """Return an upload that `add` has cached, and mark it as used; None if it is not there.

        Args:
            name: The name of the upload, 32 hexadecimal digits.
        """
        with self._lock:
            return self._uploads.get(name)

    def _preprocessor(self) -> ImagePreprocessor:
        preprocessor: ImagePreprocessor | None = getattr(self._local, "preprocessor", None)
        if preprocessor is None:
            preprocessor = self._local.preprocessor = self._engine.open_preprocessor()
            with self._lock:
                self._preprocessors.append(preprocessor)
        return preprocessor

    def close(self) -> None:
        """End the child processes. No thread may be using the cache any more."""
        for preprocessor in self._preprocessors:
            preprocessor.close()
