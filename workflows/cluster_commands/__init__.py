"""The commands under `tesserae cluster`, for clusters that keep running between commands."""
