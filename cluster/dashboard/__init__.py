"""Extensions of Dask's dashboard: loading on demand, more pages and JSON, and an access token."""
