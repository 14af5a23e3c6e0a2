"""What can go wrong with the embedded parts. The message always says what to do; the command line prints it as it is.

EmbeddedError
├── ToolMissing       a program that must be installed first is missing or too old
├── FetchFailed       Maven could not resolve the broker's jars
├── DirectoryInUse    another process holds the data directory
├── DirectoryMismatch the data directory was made with other settings
├── PortTaken         the port that was asked for is in use
└── StartFailed       the child process ended, or was not ready in time
"""


class EmbeddedError(Exception):
    """Raised by everything in this package; the process that wanted the embedded part cannot go on."""


class ToolMissing(EmbeddedError):
    """Raised when Java or Maven is not installed, or is older than needed."""


class FetchFailed(EmbeddedError):
    """Raised when Maven ends with an error; repeated calls are safe."""


class DirectoryInUse(EmbeddedError):
    """Raised when a data directory is held by another process that is alive."""


class DirectoryMismatch(EmbeddedError):
    """Raised when a data directory was made for another number of brokers; its replicas would be lost or doubled."""


class PortTaken(EmbeddedError):
    """Raised when a port that the caller fixed is not free."""


class StartFailed(EmbeddedError):
    """Raised when a child ended or was not ready in time; the message ends with the last lines of its log."""
