"""Search a store with a DeViSE run: images by words, words by images, images by images.

    tesserae search RUN "fishing net"              images that match the words
    tesserae search RUN "engine + boat"            images of both; also a - b, 2*a + b, a ~0.3 b
    tesserae search RUN "#1234 + snow"             images like row 1234 of the store, with snow
    tesserae search RUN --image FILE --to words    words that describe an image file
    tesserae search RUN --serve                    a web page to search on

The first search embeds the whole store; the embeddings are cached in RUN/search.
"""

from workflows.commands import Command
from workflows.search.options import SearchCommandOptions

COMMAND = Command((SearchCommandOptions,), "workflows.search.command:run_search")
