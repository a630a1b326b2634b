"""Dask's dashboard, loaded when it is asked for: its pages, its JSON, its access token."""
