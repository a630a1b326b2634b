"""The class of each sample, from tables and folders, and the order of a store's classes."""
