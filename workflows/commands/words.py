"""Show which classes have a word vector, and their position in the WordNet hierarchy.

The classes come from a store, or from a text file with a class id and its names on each line
(LOC_synset_mapping.txt, words.txt). The vectors come from a word2vec, GloVe or fastText file.
Without a file they are derived from the hierarchy, so that nothing needs to be downloaded.
"""

from workflows.commands import Command
from workflows.devise.words_options import WordsOptions

COMMAND = Command((WordsOptions,), "workflows.devise.words:run_words")
