"""The one exception that means "the user can mend this": wrong gin, flags, settings or input files."""


class WrongUse(Exception):
    """Wrong use of the system; the message names the file, line, field or setting, and the remedy.

    `run/` turns it into one sentence on standard error and exit code 2, without a traceback.
    """
