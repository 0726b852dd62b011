"""Break the package on purpose, one line at a time, and see whether the tests notice.

    python tests/mutation/run_mutations.py              every mutation of `mutations.py`
    python tests/mutation/run_mutations.py 3 17 40-52   some of them, by number
    python tests/mutation/run_mutations.py --fresh      forget what earlier runs found

The tree is copied once, so the checkout is never touched. What was found is kept after every mutation and skipped by
the next run while package, mutation and tests are the same. Exit status 1 if any mutation survived, does not apply any
more, or its tests fail or cannot run without it. pytest does not collect this file; the whole list takes about half an
hour on one core.
"""

import argparse
import hashlib
import json
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
COPIED = ("src", "tests", "conf", "pyproject.toml", "data/06_models/base")
PACKAGE = Path("src/vibe_pipeline")
DEFAULT_RESULTS = Path(tempfile.gettempdir()) / "vibe_mutations.json"
sys.path.insert(0, str(Path(__file__).parent))
sys.dont_write_bytecode = True  # a mutated file of equal size and second would be run from the old bytecode

from mutations import MUTATIONS, Mutation  # noqa: E402

KILLED, SURVIVED, STALE, BROKEN = "killed", "survived", "does not apply", "tests fail without it"
UNRUNNABLE, STUCK = "tests cannot run", "killed by time"
TIME_LIMIT = 300.0  # seconds a mutation's tests may take; a mutation that never ends counts as noticed


def main() -> int:
    """Run what was asked for; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("numbers", nargs="*", help="for example 3 or 40-52; without any: all")
    parser.add_argument("--results", type=Path, default=DEFAULT_RESULTS, help="where outcomes are kept between runs")
    parser.add_argument("--fresh", action="store_true", help="run again what is known already")
    arguments = parser.parse_args()
    wanted = _numbers(arguments.numbers)
    known = {} if arguments.fresh or not arguments.results.exists() else json.loads(arguments.results.read_text())
    with tempfile.TemporaryDirectory(prefix="mutations-") as folder:
        tree = Path(folder) / "tree"
        _copy(tree)
        _import_what_all_tests_need(tree)
        outcomes = {}
        for number in wanted:
            mutation = MUTATIONS[number]
            print(f"{number:3d} {mutation.breaks[:88]:88s} ", end="", flush=True)
            outcomes[number], seconds = _outcome(mutation, tree, known, arguments.results)
            print(f"{outcomes[number]} ({seconds:.0f} s)", flush=True)
    return _summarise(outcomes)


def _numbers(asked: list[str]) -> list[int]:
    if not asked:
        return list(range(len(MUTATIONS)))
    ranges = [tuple(map(int, text.split("-"))) for text in asked]
    return [number for r in ranges for number in range(r[0], r[-1] + 1)]


def _copy(tree: Path) -> None:
    tree.mkdir(parents=True)
    ignored = shutil.ignore_patterns("__pycache__", ".*_cache")
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, tree / name, ignore=ignored)
        else:
            shutil.copy(source, tree / name)


def _import_what_all_tests_need(tree: Path) -> None:
    """Import the big libraries once: every test run is a fork of this process and imports the package alone."""
    os.environ["PYTHONPATH"] = str(tree / "src")  # of the processes that tests start
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    sys.path.insert(0, str(tree / "src"))
    import vibe_pipeline  # mends torchvision, which diffusers imports

    if not Path(vibe_pipeline.__file__).is_relative_to(tree):
        raise RuntimeError(f"the tests would run {vibe_pipeline.__file__}, not the copy in {tree}")
    import diffusers
    import pandas
    import peft
    import pytest
    import scipy.ndimage
    import torch
    import transformers

    torch.set_num_threads(1)  # a fork of a process whose thread pool is running could wait for it for ever
    lazy = [diffusers.WanPipeline, diffusers.WanImageToVideoPipeline, transformers.UMT5EncoderModel]
    lazy += [pandas.DataFrame, peft.LoraConfig, pytest.main, scipy.ndimage.label]
    assert all(lazy)
    for name in [n for n in sys.modules if n.split(".")[0] == "vibe_pipeline"]:
        del sys.modules[name]


def _outcome(mutation: Mutation, tree: Path, known: dict[str, str], results: Path) -> tuple[str, float]:
    """What became of a mutation, and the seconds that it took."""
    begun, key = time.monotonic(), _key(mutation, tree)
    if key not in known:
        known[key] = _run(mutation, tree, known)
        results.write_text(json.dumps(known, indent=1))
    return known[key], time.monotonic() - begun


def _key(mutation: Mutation, tree: Path, mutated: bool = True) -> str:
    """Everything that an outcome depends on: the package, the tests, and the mutation or its absence."""
    digest = hashlib.sha256(repr(mutation if mutated else mutation.tests).encode())
    tests = {tree / test.split("::")[0] for test in mutation.tests}
    fixtures = (tree / "tests").rglob("conftest.py")
    for file in sorted({*(tree / PACKAGE).rglob("*.py"), *tests, *fixtures}):
        digest.update(str(file.relative_to(tree)).encode())
        digest.update(file.read_bytes() if file.exists() else b"")
    return digest.hexdigest()[:16]


def _run(mutation: Mutation, tree: Path, known: dict[str, str]) -> str:
    file = _file_of(mutation, tree)
    if file is None:
        return STALE
    sound = _key(mutation, tree, mutated=False)
    if sound not in known:
        known[sound] = _tested(mutation.tests, tree)
    if known[sound] != SURVIVED:
        return UNRUNNABLE if known[sound] == UNRUNNABLE else BROKEN
    with _mutated(file, mutation):
        return _tested(mutation.tests, tree)


def _file_of(mutation: Mutation, tree: Path) -> Path | None:
    """The file of the package that holds the old text exactly once: the one named, or where it has moved to."""
    named = tree / PACKAGE / mutation.file
    if named.exists() and named.read_text().count(mutation.old) == 1:
        return named
    holding = [f for f in (tree / PACKAGE).rglob("*.py") if mutation.old in f.read_text()]
    return holding[0] if len(holding) == 1 and holding[0].read_text().count(mutation.old) == 1 else None


@contextmanager
def _mutated(file: Path, mutation: Mutation) -> Iterator[None]:
    text = file.read_text()
    file.write_text(text.replace(mutation.old, mutation.new))
    try:
        yield
    finally:
        file.write_text(text)


def _tested(tests: tuple[str, ...], tree: Path) -> str:
    """Run tests in a fork; KILLED if one failed."""
    child = os.fork()
    if child == 0:
        os.setsid()  # so that what the tests start can be ended with them
        _test_here(tests, tree)
    deadline = time.monotonic() + TIME_LIMIT
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            code = os.waitstatus_to_exitcode(status)
            return {0: SURVIVED, 1: KILLED}.get(code, UNRUNNABLE)
        time.sleep(0.1)
    os.killpg(child, 9)
    os.waitpid(child, 0)
    return STUCK


def _test_here(tests: tuple[str, ...], tree: Path) -> None:
    """The fork's work; does not return."""
    code = 3
    try:
        import pytest

        log = os.open(tree.parent / "pytest.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.chdir(tree)
        code = int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", f"--rootdir={tree}", *tests]))
    finally:
        os._exit(code)


def _summarise(outcomes: dict[int, str]) -> int:
    counts = Counter(outcomes.values())
    noticed = counts[KILLED] + counts[STUCK]
    for number, outcome in outcomes.items():
        if outcome not in (KILLED, STUCK):
            mutation = MUTATIONS[number]
            print(f"{outcome.upper()}: {number} {mutation.breaks}\n    {mutation.file}: {mutation.old!r}")
    tried = noticed + counts[SURVIVED]
    rate = f"{noticed / tried:.1%}" if tried else "nothing tried"
    print(f"{len(outcomes)} mutations: {', '.join(f'{n} {what}' for what, n in counts.most_common())}; rate {rate}")
    return 0 if noticed == len(outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
