"""The class of each sample: what tables and folders say, and the order of a store's classes."""
