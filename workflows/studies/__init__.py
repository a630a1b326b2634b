"""Small experiments on what papers claim."""

STUDIES = ("gaussians", "digits", "devise")
SETTINGS = ("paper", "alike")
"""How an objective is set up; `workflows.studies.arms` says what each means."""
