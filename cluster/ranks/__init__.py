"""Training processes of one world, placed by Dask and supervised by its tasks."""
