"""Exceptions that carry a one-line message for the user, and the detection of a full disk."""

import errno
from collections.abc import Sequence

# Messages for a full disk of safetensors, and of torch.save for a large and a small tensor.
_SIGNS = ("No space left on device", "PytorchStreamWriter failed writing", "] . unexpected pos")


class UserError(Exception):
    """Error caused by wrong input: an unknown task, an impossible shape, a broken file, a missing checkpoint.

    The message is one line. The command line prints it and exits with code 2. The workflow shows the same line.
    """


class DataError(UserError):
    """Error for a task's data: rows or files that cannot be used. The message names the first problem.

    Args:
        problems: One line for each problem, with file, row and column.
    """

    def __init__(self, problems: Sequence[str]) -> None:
        more = len(problems) - 1
        rest = f" (and {more} more problem{'s' * (more > 1)}: `costeff check` lists all)" if more else ""
        super().__init__(f"{problems[0]}{rest}")
        self.problems = tuple(problems)


class TrainingFailed(UserError):
    """Error for a training that failed, such as a loss that is not finite. It is recorded as the result of the run."""


class NoStages(UserError):
    """Error for a method that does not implement `Method.stages`."""


class NeedFailed(UserError):
    """Error for a run that needs the model of a failed run.

    Args:
        message: One line for the user.
        again: Whether another attempt at the failed run can succeed.
    """

    def __init__(self, message: str, again: bool) -> None:
        super().__init__(message)
        self.again = again


def is_disk_full(error: BaseException) -> bool:
    """Return whether `error`, or an error that caused it, reports a full disk.

    safetensors and torch raise errors of their own for a full disk. They are recognised by their messages.
    """
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    if any(sign in str(error) for sign in _SIGNS):
        return True
    source = error.__cause__ or error.__context__
    return source is not None and is_disk_full(source)


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or the name of its class if the message is empty."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
