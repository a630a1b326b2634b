"""One file a command: its flags, and the name of the module that runs it.

Nothing here loads more than names and numbers, so that `--help` is there at once, whatever is
installed. `IMPLEMENTATION` names a module with `run(args)`, which returns the exit status.
"""
