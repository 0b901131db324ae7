"""The one exception for mistakes that a user can mend."""


class UserError(Exception):
    """A wrong path, setting or file that the user named.

    The message says what is wrong, where, and what to do about it, in one line. The command line prints it without a
    traceback and exits with code 2.
    """


class DataError(UserError):
    """Data that were read and can't be used, where paths and settings are right."""
