"""Small experiments that test claims of papers."""

SETTINGS = ("paper", "alike")
"""The settings of an objective, which `workflows.studies.arms` explains."""
