"""Clusters whose workers run in Slurm jobs of their own, or in the tasks of one allocation."""
