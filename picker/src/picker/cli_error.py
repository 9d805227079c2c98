"""What ends a command in words rather than in a traceback."""


class CliError(Exception):
    """A command cannot begin, or go on, for a reason outside it; the message has a line for each."""
