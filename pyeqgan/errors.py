"""The one exception the application raises for mistakes its user can mend."""


class UserError(Exception):
    """A mistake in what the user gave: a path, a size, a file.

    The command line prints its message on one line, without a traceback, and exits with status 2.
    """
