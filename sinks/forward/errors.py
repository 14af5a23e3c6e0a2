"""What ends the forwarder.

ForwardError
├── Misconfigured     a person must act first; the process ends with EXIT_MISCONFIGURED
└── Broken            the producer can send no more; the next process goes on from what is noted

What only delays it is `sinks.forward.port.Unavailable`.
"""

from typing import Final

__all__ = ["EXIT_BROKEN", "EXIT_MISCONFIGURED", "Broken", "ForwardError", "Misconfigured"]

EXIT_BROKEN: Final = 70
EXIT_MISCONFIGURED: Final = 78


class ForwardError(Exception):
    """The base of what the forwarder raises on purpose."""


class Misconfigured(ForwardError):
    """Raised when a topic is missing, or the two topics differ in partitions; says what to do."""


class Broken(ForwardError):
    """Raised when Kafka's client says that its producer is of no use any more, or the log refuses a record for good."""
