"""The commands on training runs: train, report, sample images and export."""
