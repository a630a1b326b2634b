"""What a person can be told of a cluster in one sentence, without a traceback."""


class ClusterError(Exception):
    """The cluster cannot do what was asked of it."""


class CertificateError(ClusterError, ValueError):
    """Certificates are missing, too old, or not to be used so."""
