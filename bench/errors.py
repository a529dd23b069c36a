"""The one exception a user meets: a line that names the culprit and the remedy."""


class UserError(Exception):
    """Wrong input: an unknown task, an impossible shape, a broken file, a missing checkpoint.

    The message is one line. The command line prints it and exits with code 2; the workflow shows the same line.
    """


class TrainingFailed(UserError):
    """A recipe that did not work out, such as a loss that is not finite; recorded as a result with its reason."""
