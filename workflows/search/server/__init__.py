"""The HTTP server of the search page."""
