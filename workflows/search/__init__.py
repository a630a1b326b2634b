"""Search a run of DeViSE in every direction: words, pictures, and what lies between.

    tesserae search RUN "fishing net"              pictures of what is called so
    tesserae search RUN "engine + boat"            of both at once; also a - b, 2*a + b, a ~0.3 b
    tesserae search RUN "#1234 + snow"             like that picture of the store, but with snow
    tesserae search RUN --image FILE --to words    what a picture shows, in words
    tesserae search RUN --serve                    all of it on a page

The store is embedded when it is first searched, and what comes of it is kept in RUN/search.
"""

from workflows.search.command import add_arguments, run

__all__ = ["add_arguments", "run"]
