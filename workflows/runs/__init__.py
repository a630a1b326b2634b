"""Training runs: started, reported, sampled from and exported."""
