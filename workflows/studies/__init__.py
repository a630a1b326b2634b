"""Small experiments that test claims of papers."""

STUDIES = ("gaussians", "digits", "devise")
"""The names of the studies."""
SETTINGS = ("paper", "alike")
"""The settings of an objective, which `workflows.studies.arms` explains."""
