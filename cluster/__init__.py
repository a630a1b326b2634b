"""Where the work runs. Knows Dask, knows nothing of images."""
