"""The tar and zip archives: how they are walked, outlined, and laid out as samples."""
