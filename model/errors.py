"""The exceptions that the command line turns into one line; any other is a traceback."""


class UserError(Exception):
    """A wrong path, setting or file that the user named.

    The message says what is wrong, where, and what to do about it, in one line. The command line prints it without a
    traceback and exits with code 2.
    """


class JobFailure(Exception):
    """A job that cannot go on, through no fault of its settings: a full disk, a worker that died.

    The message says what happened and where in one line; what is done is whole, and the same command goes on from it.
    The command line prints it without a traceback and exits with code 1.
    """


class Interrupted(KeyboardInterrupt):
    """The user stopped a job; the message says how far it came and how to go on. The exit code is 130."""
