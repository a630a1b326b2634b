"""Tar and zip archives: walked, outlined, and laid out as samples."""
