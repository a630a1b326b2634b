"""The ranks of a training world: processes that Dask places, and that its tasks supervise."""
