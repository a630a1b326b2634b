"""Clusters whose workers are jobs of Slurm, or processes of one Slurm allocation."""
