"""One node per row of a table."""

from collections.abc import Callable, Iterable, Mapping
from types import MethodType
from typing import Any


class Row(str):
    """A row's name, to which a node's function is bound as a method: so the name is its first argument.

    Unlike a closure, a method can be sent to worker processes, by the object that it is bound to and the function's
    name; unlike a partial it keeps the function's name and annotations, from which Kedro validates parameters; and
    Kedro-Viz shows the code of the plain function behind it.
    """

    function: Callable[..., Any]

    def __new__(cls, name: str, function: Callable[..., Any]) -> "Row":
        """Take the name and the function."""
        row = super().__new__(cls, name)
        row.function = function
        return row

    def __getattr__(self, name: str) -> Any:
        """The function, by its name; a worker process asks so."""
        function = self.__dict__.get("function")
        if function is None or name != function.__name__:
            raise AttributeError(name)
        return MethodType(function, self)

    def __reduce__(self) -> tuple[Any, ...]:
        """What a worker process gets."""
        return Row, (str(self), self.function)


def resources(gpus: int = 0, cpus: int = 1) -> list[str]:
    """Tags that say what a node needs; :class:`vibe_pipeline.runtime.ray_runner.RayRunner` reads them."""
    return [f"gpu_{gpus}", f"cpu_{cpus}"]


def for_row(function: Callable[..., Any], row: str) -> MethodType:
    """Bind a row's name as the first argument of a node function."""
    return MethodType(function, Row(row, function))


def named(prefix: str, rows: Iterable[str]) -> dict[str, str]:
    """Inputs of a node that takes one dataset a row: each under its own name, for example "clips-full"."""
    return {f"{prefix}-{row}": f"{prefix}-{row}" for row in rows}


def of_kind(prefix: str, by_row: Mapping[str, Any]) -> dict[str, Any]:
    """Of what a node took by :func:`named`, the data of one kind, by the row's name alone and in the given order."""
    start = f"{prefix}-"
    return {name.removeprefix(start): data for name, data in by_row.items() if name.startswith(start)}
