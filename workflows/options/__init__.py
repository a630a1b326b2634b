"""The options of commands: frozen dataclasses whose fields are the flags of the command line."""
