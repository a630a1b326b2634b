"""What a person can be told of a cluster in one sentence, without a traceback."""


class ClusterError(Exception):
    """The cluster cannot do what was asked of it."""


class CertificateError(ClusterError, ValueError):
    """Certificates are missing, too old, or not to be used so."""


class RankError(ClusterError):
    """A rank has failed: its error, and the last lines that it said."""

    def __init__(self, text: str, *, killed: bool = False) -> None:
        """Note whether a signal ended it."""
        super().__init__(text)
        self.killed = killed

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle it whole: it comes from a worker."""
        return _rank_error, (str(self), self.killed)


def _rank_error(text: str, killed: bool) -> RankError:
    return RankError(text, killed=killed)
