"""Whether a network that is built needs the weights that it begins with: not where a checkpoint fills it next."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_follow = ContextVar("weights follow", default=False)


@contextmanager
def weights_follow() -> Iterator[None]:
    """Let models that are built in this context leave the files of their first weights unread.

    A checkpoint of theirs, which is loaded next, has all weights. So a run goes on, and is tested, where the files that
    it began with are gone.

    Yields:
        Nothing.

    Example:
        >>> with weights_follow():
        ...     needs_first_weights()
        False
    """
    token = _follow.set(True)
    try:
        yield
    finally:
        _follow.reset(token)


def needs_first_weights() -> bool:
    """Tell whether a network that is built here needs the weights that it begins with.

    Returns:
        Whether it is outside of `weights_follow`.

    Example:
        >>> needs_first_weights()
        True
    """
    return not _follow.get()
