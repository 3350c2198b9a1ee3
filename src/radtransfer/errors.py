"""The one exception that a user of the tool is meant to read."""


class RadtransferError(Exception):
    """Something that the user can put right.

    The message says what was wrong, where (file, row, value), what was expected and what to do. The command line
    prints it without a traceback and exits with code 2.
    """
