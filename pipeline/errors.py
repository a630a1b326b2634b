"""The errors a caller may want to tell apart.

    TesseraeError
      SourceError          (ValueError)   the images cannot be listed, or are not what was said
      StoreError
        StoreMismatchError                another recipe, listing or size than the store's own
        StoreBusyError                    somebody else is writing the same split
        StoreDamagedError                 a file of the store is missing or not what was committed
          WrongDocumentError              a document says what it cannot say
      ReadError            (OSError)      bytes could not be read now; the next try may succeed
      RankError            (ValueError)   launchers disagree about which rank this process is
      DecodeError          (ValueError)   bytes were read and are no picture; they never will be

Each takes its arguments by position only, so that it survives the way back from a worker.
"""


class TesseraeError(Exception):
    """Whatever a person can be told in one sentence, without a traceback."""


class SourceError(TesseraeError, ValueError):
    """The source holds no images, or not in the shape that was named."""


class StoreError(TesseraeError):
    """The store cannot do what was asked of it."""


class StoreMismatchError(StoreError):
    """The store was made with another recipe or from another listing."""


class StoreBusyError(StoreError):
    """Another run holds the lease of this split."""


class StoreDamagedError(StoreError):
    """A file of the store is missing, or differs from what was committed."""


class WrongDocumentError(StoreDamagedError):
    """A document has its own digest, and says what such a document cannot say.

    Args:
        name: The document.
        what: Which field has which value, and what was expected.
        cure: What to do, as a sentence.
    """

    def __init__(self, name: str, what: str, cure: str) -> None:
        super().__init__(name, what, cure)
        self.name = name
        self.what = what
        self.cure = cure

    def __str__(self) -> str:
        return f"{self.name} holds another document than its name says: {self.what}. {self.cure}"


class RankError(TesseraeError, ValueError):
    """It cannot be told which rank this process is, or of how many."""


class ReadError(TesseraeError, OSError):
    """Bytes of the source could not be read. Never a reason for quarantine: it may pass."""


class DecodeError(TesseraeError, ValueError):
    """The bytes themselves are no readable picture.

    Args:
        status: Why, as the store's `status` array says it (`pipeline.images.decode`).
        reason: One printable line for a person; the same for the same bytes.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(status, reason)
        self.status = status
        self.reason = reason

    def __str__(self) -> str:
        return self.reason
