"""The exceptions that the command line turns into exit codes of their own."""


class WrongUse(Exception):
    """Wrong use of the system; the message names the file, line, field or setting, and the remedy.

    `run/` turns it into one sentence on standard error and exit code 2, without a traceback.
    """


class DoesNotFit(Exception):
    """What a plan ends with when a program needs more memory than a chip has; exit code 3."""


class Interrupted(Exception):
    """Work that left before its end, with all that it did saved; exit code 75: the same command goes on."""
