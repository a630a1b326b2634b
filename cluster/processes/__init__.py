"""The processes of a cluster: schedulers, workers, and what starts, watches and ends them."""
