"""The exception for errors that a command reports without a traceback."""


class CliError(Exception):
    """A command cannot start or continue for an external reason; the message has a line for each problem."""
