"""A stage that learns the classes of pictures: the example of a stage."""
