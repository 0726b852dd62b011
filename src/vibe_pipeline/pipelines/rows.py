"""One node per row of a table."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any


class RowFunction:
    """A node function with the row's name bound as its first argument.

    Unlike a closure it can be sent to worker processes; unlike a partial it keeps name and annotations there,
    from which Kedro takes log lines and validates parameters.
    """

    def __init__(self, function: Callable[..., Any], row: str) -> None:
        self.function, self.row = function, row
        signature = inspect.signature(function)
        self.__signature__ = signature.replace(parameters=list(signature.parameters.values())[1:])
        self.__annotations__ = dict(function.__annotations__)
        self.__name__ = f"{function.__name__}[{row}]"
        self.__doc__ = function.__doc__

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function for this row."""
        return self.function(self.row, *args, **kwargs)


def resources(gpus: int = 0, cpus: int = 1) -> list[str]:
    """Tags that say what a node needs; :class:`vibe_pipeline.runtime.ray_runner.RayRunner` reads them."""
    return [f"gpu_{gpus}", f"cpu_{cpus}"]


def for_row(function: Callable[..., Any], row: str) -> RowFunction:
    """Bind a row's name as the first argument of a node function."""
    return RowFunction(function, row)


def named(prefix: str, rows: Iterable[str]) -> dict[str, str]:
    """Inputs of a node that takes one dataset a row: each under its own name, for example "clips-full"."""
    return {f"{prefix}-{row}": f"{prefix}-{row}" for row in rows}


def of_kind(prefix: str, by_row: Mapping[str, Any]) -> dict[str, Any]:
    """Of what a node took by :func:`named`, the data of one kind, by the row's name alone and in the given order."""
    start = f"{prefix}-"
    return {name.removeprefix(start): data for name, data in by_row.items() if name.startswith(start)}
