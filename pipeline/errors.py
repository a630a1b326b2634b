"""The errors that a caller may want to distinguish.

    TesseraeError
      SourceError          (ValueError)   the images cannot be listed, or not in the stated format
      StoreError
        StoreMismatchError                the recipe, listing or size differs from the store's
        StoreBusyError                    another run is writing the same split
        StoreDamagedError                 a file of the store is missing or not what was committed
          InvalidDocumentError            a document with a valid digest has an invalid content
      ReadError            (OSError)      bytes could not be read now; a retry may succeed
      RankError            (ValueError)   launchers disagree about the rank of this process
      DecodeError          (ValueError)   bytes were read and are no readable image

Each error takes positional arguments only, so that it survives pickling by a worker.
"""


class TesseraeError(Exception):
    """An error whose message suffices for the user, without a traceback."""


class SourceError(TesseraeError, ValueError):
    """The source has no images, or not in the stated format."""


class StoreError(TesseraeError):
    """The store cannot perform the requested operation."""


class StoreMismatchError(StoreError):
    """The store was made with another recipe or from another listing."""


class StoreBusyError(StoreError):
    """Another run holds the lease of this split."""


class StoreDamagedError(StoreError):
    """A file of the store is missing, or differs from what was committed."""


class InvalidDocumentError(StoreDamagedError):
    """A document whose digest is valid has an invalid content.

    Args:
        name: The name of the document.
        problem: The field, its value and the expected values.
        advice: The advice to the user, as a sentence.
    """

    def __init__(self, name: str, problem: str, advice: str) -> None:
        super().__init__(name, problem, advice)
        self.name = name
        self.problem = problem
        self.advice = advice

    def __str__(self) -> str:
        return f"{self.name} is not the document that its name says: {self.problem}. {self.advice}"


class RankError(TesseraeError, ValueError):
    """The rank of this process or the size of its world cannot be determined."""


class ReadError(TesseraeError, OSError):
    """Bytes of the source could not be read; this may pass, so it never causes quarantine."""


class DecodeError(TesseraeError, ValueError):
    """The bytes are not a readable image.

    Args:
        status: The value for the store's `status` array (`pipeline.images.decode`).
        reason: One printable line for people, which depends on the bytes alone.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(status, reason)
        self.status = status
        self.reason = reason

    def __str__(self) -> str:
        return self.reason
