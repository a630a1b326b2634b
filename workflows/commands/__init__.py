"""One file a command: its flags, and the call of what it does.

Nothing here loads more than names and numbers, so that `--help` is there at once, whatever is
installed.
"""
