"""Terminal output of commands: formatting, progress displays and signal handling."""
