"""Imports the modules that all workers share, once. Only the fork server imports this module.

Garbage collection is disabled meanwhile, since modules are never freed. Afterwards their objects
are frozen: a collection in a forked worker would write to the pages they are on, and copy them.
"""

import gc
import importlib
import os

gc.disable()
try:
    for _name in os.environ["TESSERAE_PRELOAD"].split():
        importlib.import_module(_name)
finally:
    gc.freeze()
    gc.enable()
