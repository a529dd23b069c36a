"""The one exception a user meets, a line that names the culprit and the remedy; and how a full disk shows."""

import errno
from collections.abc import Sequence

# What safetensors says of a full disk, then torch.save, of a large and of a small tensor.
_SIGNS = ("No space left on device", "PytorchStreamWriter failed writing", "] . unexpected pos")


class UserError(Exception):
    """Wrong input: an unknown task, an impossible shape, a broken file, a missing checkpoint.

    The message is one line. The command line prints it and exits with code 2; the workflow shows the same line.
    """


class DataError(UserError):
    """Rows or files that cannot be used: every problem of a task's data, the message naming the first.

    Args:
        problems: One line for each problem, naming file, row and column.
    """

    def __init__(self, problems: Sequence[str]) -> None:
        more = len(problems) - 1
        rest = f" (and {more} more problem{'s' * (more > 1)}: `costeff check` lists all)" if more else ""
        super().__init__(f"{problems[0]}{rest}")
        self.problems = tuple(problems)


class TrainingFailed(UserError):
    """A recipe that did not work out, such as a loss that is not finite; recorded as a result with its reason."""


class NeedFailed(UserError):
    """A run whose teacher failed; `again`: whether trying that one again may end otherwise."""

    def __init__(self, message: str, again: bool) -> None:
        super().__init__(message)
        self.again = again


def is_disk_full(error: BaseException) -> bool:
    """Whether `error`, or what it came from, is a full disk; safetensors and torch have errors of their own."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    if any(sign in str(error) for sign in _SIGNS):
        return True
    source = error.__cause__ or error.__context__
    return source is not None and is_disk_full(source)


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or the name of its class if the message is empty."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
