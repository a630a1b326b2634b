"""Search a store: images by words, words by images, images by images.

    tesserae search RUN "fishing net"              images that match the words
    tesserae search RUN "engine + boat"            images of both; also a - b, 2*a + b, a ~0.3 b
    tesserae search RUN "#1234 + snow"             images like row 1234 of the store, with snow
    tesserae search RUN --image FILE --to words    words that describe an image file
    tesserae search RUN "dog" --store OTHER        a store that the run was not trained on
    tesserae search MODEL "two dogs on a beach" --store STORE    a sentence, by a CLIP-like model
    tesserae search RUN "dog" --save dogs.zip      the results as a file, here with the images
    tesserae search RUN --serve                    a web page to search on

RUN is a run of `train devise`, which knows the words that it was trained with, and MODEL the folder
of a CLIP-like model of transformers with its tokenizer. The first search embeds the whole store;
the embeddings are cached in the folder of the run or model, or in --vectors.
"""

from workflows.commands import Command
from workflows.search.options import SearchCommandOptions

COMMAND = Command((SearchCommandOptions,), "workflows.search.command:run_search")
