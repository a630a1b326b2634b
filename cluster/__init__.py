"""Dask clusters: local, over ssh, in Slurm jobs, or running elsewhere. Independent of images."""
