"""The exceptions that the command line reports in one line; any other exception shows its traceback."""


class UserError(Exception):
    """A wrong path, setting or file that the user named.

    The message says in one line what is wrong, where, and what to do about it. The command line prints it without a
    traceback and exits with code 2.
    """


class JobFailure(Exception):
    """A job that cannot continue, although its settings are right: a full disk, a worker that died.

    The message says in one line what happened and where. What is finished is kept; repeat the command to continue.
    The command line prints the message without a traceback and exits with code 1.
    """


class Interrupted(KeyboardInterrupt):
    """The user stopped a job; the message says how far it got and how to continue.

    Attributes:
        exit_code: of the command line, as shells know it: 128 and the number of the signal.
    """

    exit_code = 130


class Terminated(Interrupted):
    """The machine or its scheduler stopped a job by SIGTERM; else as `Interrupted`."""

    exit_code = 143


class DamagedFileError(UserError):
    """A file of sepline's own is empty, cut off or changed: a bad disk, a crash of the machine, an editor."""


class DataError(UserError):
    """The data can't be used, although paths and settings are right."""
