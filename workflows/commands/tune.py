"""Find out how many workers, threads and readers prepare the images of SOURCE fastest.

Settings are tried on this machine with the work of `prepare`: reading, decoding, resizing and, with
a STORE, writing on its disk. Nothing of it is kept. `prepare --workers auto` does the same first.
"""

from workflows.commands import Command
from workflows.preparation.options import TuneOptions

COMMAND = Command((TuneOptions,), "workflows.preparation.tuning.command:tune")
