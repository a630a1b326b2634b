"""Imported by the fork server and by nothing else: what all workers share is loaded here, once.

The collector of garbage is off meanwhile, since modules are there to stay, and told afterwards
never to look at them: in a forked worker each look would copy the pages they are on.
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
