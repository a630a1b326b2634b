"""Small data sets to try the software with."""
