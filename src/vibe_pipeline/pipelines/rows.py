"""One node per row of a table."""

from collections.abc import Callable
from functools import partial, update_wrapper
from typing import Any


def for_row(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    """Bind a row's name as the first argument.

    A partial can be sent to worker processes, which a closure cannot; its annotations are copied because
    Kedro validates parameters by a node function's type hints.
    """
    bound = partial(function, name)
    update_wrapper(bound, function)
    del bound.__wrapped__  # would hide that the first argument is bound
    bound.__name__ = f"{function.__name__}[{name}]"
    return bound
