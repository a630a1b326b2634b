"""Search by words and images, and combinations of both; `command` is the entry point."""
