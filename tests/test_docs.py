"""The pages say what is there: links, anchors, files and functions that they name exist; the front page is short."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src/vibe_pipeline"
PAGES = (ROOT / "README.md", ROOT / "conf/README.md", *sorted((ROOT / "docs").glob("*.md")))
# Written by benchmarks/study.py, out of data that other tests check.
WRITTEN_BY_PROGRAM = {"RESULTS.md", "RESULTS_TABLES.md"}
MOST_WORDS = 900

LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
TICKED = re.compile(r"`([^`\n]+)`")
MODULE = re.compile(r"[\w./-]+\.py")
TRACKED = re.compile(r"\b(?:docs|conf|tests|notebooks|benchmarks|src|requirements)/[\w./*-]*[\w*]")
ROW = re.compile(r"^\|[^|]*\|([^|]*)\|([^|]*)\|$", re.M)


def without_blocks(text: str) -> str:
    """A page without its blocks of code."""
    return re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub makes of a page's headings."""
    heads = re.findall(r"^#+ (.*)$", without_blocks(page.read_text()), re.M)
    return {re.sub(r"[^\w\- ]", "", head.strip().lower()).replace(" ", "-") for head in heads}


def broken_links(page: Path) -> list[str]:
    """Relative links that lead nowhere."""
    broken = []
    for target in LINK.findall(without_blocks(page.read_text())):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            broken.append(target)
    return broken


@cache
def modules() -> dict[str, set[str]]:
    """Every module of the package by its path below it, and the names that it defines."""
    return {p.relative_to(PACKAGE).as_posix(): defined(p) for p in PACKAGE.rglob("*.py")}


def defined(path: Path) -> set[str]:
    """Functions, classes, methods and module-level values of a file."""
    tree = ast.parse(path.read_text())
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    names = {node.name for node in ast.walk(tree) if isinstance(node, kinds)}
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return names


def absent_files(page: Path) -> list[str]:
    """Paths of the repository, and modules of the package, that a page names and that are not there."""
    text = page.read_text()
    named = [t for t in TICKED.findall(without_blocks(text)) if MODULE.fullmatch(t)]
    own = [name for name in named if not any(f"/{module}".endswith(f"/{name}") for module in modules())]
    return [name for name in own if not (ROOT / name).exists()] + [
        path for path in TRACKED.findall(text) if not any(True for _ in ROOT.glob(path)) and not in_package(path)
    ]


def in_package(path: str) -> bool:
    """Whether a path is one within the package that only looks like one of the root."""
    return (PACKAGE / path).exists()


def test_there_are_pages_to_look_at() -> None:
    assert len(PAGES) > 10
    assert sum(len(LINK.findall(page.read_text())) for page in PAGES) > 30


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    assert not broken_links(page)


@pytest.mark.parametrize(
    "page", [p for p in PAGES if p.name not in WRITTEN_BY_PROGRAM], ids=lambda p: p.relative_to(ROOT).as_posix()
)
def test_files_that_a_page_names_are_there(page: Path) -> None:
    assert not absent_files(page)


def test_functions_in_the_tables_of_the_architecture_are_in_the_files_beside_them() -> None:
    rows = [(TICKED.findall(a), TICKED.findall(b)) for a, b in ROW.findall((ROOT / "docs/architecture.md").read_text())]
    rows = [(functions, files) for functions, files in rows if functions and any(f.endswith(".py") for f in files)]
    assert len(rows) > 20
    for functions, files in rows:
        there = set().union(*(modules().get(file, set()) for file in files))
        assert {name.split(".")[-1] for name in functions} <= there, f"{functions} in {files}"


def test_every_room_is_in_the_architecture_and_on_the_map() -> None:
    rooms = {p.name for p in PACKAGE.iterdir() if p.is_dir() and p.name != "__pycache__"}
    listed = set(re.findall(r"^\| `(\w+)/` \|", (ROOT / "docs/architecture.md").read_text(), re.M))
    mapped = set(re.findall(r"^  (\w+)/ ", (ROOT / "README.md").read_text(), re.M))
    assert listed == mapped == rooms


def test_the_front_page_is_one_screen() -> None:
    assert len((ROOT / "README.md").read_text().split()) <= MOST_WORDS


def test_a_broken_page_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# One head\n[a](#one-head) [b](#no-head) [c](absent.md)\n`io/absent.py` docs/absent.md `io/files.py`\n"
    )
    assert broken_links(page) == ["#no-head", "absent.md"]
    assert absent_files(page) == ["io/absent.py", "docs/absent.md"]
