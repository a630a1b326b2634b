"""What every stage that trains stands on: its world of ranks, its run folder, its checkpoints."""
