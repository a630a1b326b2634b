"""The subcommands of `tesserae`: one file per command, with its flags.

These modules import only names and numbers, so that `--help` is fast and works whatever is
installed. `IMPLEMENTATION` names the module whose `run(args)` does the work and returns the exit
status.
"""
