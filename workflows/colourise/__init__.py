"""A stage that colours grey pictures: the example of a stage with a target."""
