"""A table as text to paste elsewhere: Markdown, LaTeX, CSV."""

import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_LATEX = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "{": r"\{",
        "}": r"\}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "−": "$-$",
        "±": r"$\pm$",
        "×": r"$\times$",
        "↑": r"$\uparrow$",
        "↓": r"$\downarrow$",
        "–": "--",
        "“": "``",
        "”": "''",
        **{sign: f"\\{sign}" for sign in "&%$#_"},
    }
)
_RAISED = dict(zip("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789", strict=True))
_PLAIN = str.maketrans(_RAISED)
_POWER = re.compile(f"[{''.join(_RAISED)}]+")


@dataclass(frozen=True)
class Grid:
    """A table of texts; `numbers` is the same with every figure in a cell of its own, for programs."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numbers: tuple[Mapping[str, object], ...] = ()

    def copies(self) -> dict[str, str]:
        """By the name of the format, in the order of the buttons."""
        return {"Markdown": self.markdown(), "LaTeX": self.latex(), "CSV": self.csv()}

    def markdown(self) -> str:
        """A pipe table; text to the left, all else to the right."""
        ruler = ["---" if i < 1 else "---:" for i in range(len(self.head))]
        lines = [self.head, tuple(ruler), *self.rows]
        return "".join(f"| {' | '.join(_piped(line))} |\n" for line in lines)

    def latex(self) -> str:
        """A tabular with booktabs' rules."""
        body = "".join(f"{_columns(row)} \\\\\n" for row in self.rows)
        head = (
            f"\\begin{{tabular}}{{l{'r' * (len(self.head) - 1)}}}\n\\toprule\n{_columns(self.head)} \\\\\n\\midrule\n"
        )
        return f"{head}{body}\\bottomrule\n\\end{{tabular}}\n"

    def csv(self) -> str:
        """Figures in cells of their own where there are any, else the texts."""
        text = io.StringIO()
        if self.numbers:
            writer = csv.DictWriter(text, list(self.numbers[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(self.numbers)
        else:
            csv.writer(text, lineterminator="\n").writerows([self.head, *self.rows])
        return text.getvalue()


def _piped(cells: Sequence[str]) -> list[str]:
    return [" ".join(cell.replace("|", "\\|").split()) for cell in cells]


def _columns(cells: Sequence[str]) -> str:
    return " & ".join(_latex(" ".join(cell.split())) for cell in cells)


def _latex(text: str) -> str:
    return _POWER.sub(lambda found: f"$^{{{found.group().translate(_PLAIN)}}}$", text.translate(_LATEX))
