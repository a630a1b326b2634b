"""A stage that colourises grey images: the example of a stage with a target image."""
