"""A stage that learns the classes of images: the example of a stage."""
