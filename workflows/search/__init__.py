"""Search in every direction: words, images, and what lies between; `command` is where to begin."""
