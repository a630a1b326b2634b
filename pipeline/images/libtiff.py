"""The errors that libtiff meets while Pillow decodes a TIFF, which Pillow may not notice.

Not all versions stop at an error: libtiff 4.5 goes on with uninitialised memory, which would give
different pixels each time. So an error is noted, and the image is rejected.
"""

import ctypes
import functools
import re
import threading
from pathlib import Path

_state = threading.local()


def watch_errors() -> None:
    """Forget the errors that libtiff has met in this thread, and note those that it will meet.

    The first call replaces libtiff's handlers in the whole process, so that it no longer writes its
    errors and warnings to standard error.
    """
    _replace_handlers()
    _state.failed = False


def has_met_error() -> bool:
    """Return True if libtiff has met an error in this thread since `watch_errors` was called.

    It must have been called in this thread before.
    """
    return bool(_state.failed)


def _note_error(module: bytes, text: bytes, values: int) -> None:
    _state.failed = True


_HANDLER = ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_void_p)
_error_handler = _HANDLER(_note_error)  # must stay alive: libtiff holds its address


@functools.cache
def _replace_handlers() -> None:
    """Replace libtiff's handlers, which write to standard error without Python."""
    maps = Path("/proc/self/maps")
    loaded = maps.read_text("utf-8", "replace") if maps.exists() else ""
    for path in sorted(set(re.findall(r"/\S*/libtiff[-.\w]*\.so[.\d]*", loaded))):
        # This is the loaded library itself: another copy would have handlers of its own.
        library = ctypes.CDLL(path)
        library.TIFFSetWarningHandler(None)
        library.TIFFSetErrorHandler(_error_handler)
