"""What a command refuses to go on with; its message is shown to the person, who can mend it.

CommandError
├── SettingsError     a setting is missing or wrong
├── TopicsDiffer      a topic exists with other settings than it should have
└── StackError        a part of the embedded stack does not come up
"""

__all__ = ["BrokerError", "CommandError", "SettingsError", "StackError", "TopicsDiffer"]


class CommandError(Exception):
    """The command cannot do what it was asked; the message says what to do."""


class SettingsError(CommandError):
    """A setting is missing or wrong."""


class TopicsDiffer(CommandError):
    """A topic exists with other settings than this deployment needs; names both."""


class BrokerError(CommandError):
    """Kafka does not answer, or refuses; names its address."""


class StackError(CommandError):
    """A part of the embedded stack does not come up; names its log."""
