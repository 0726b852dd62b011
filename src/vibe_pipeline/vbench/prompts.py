"""VBench's own prompts, and the protocols over them: which clips a score is made of.

The prompts are read from the installed package (`VBench_full_info.json`): in vbench 0.1.5 it has 946 entries with
944 different prompts, since two stand in it twice, each time for other dimensions. Here each is one prompt with
the dimensions of both entries, and is generated once; VBench's file names cannot tell the two apart either.
"""

import importlib.util
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from vibe_pipeline.vbench.dimensions import canonical_name, dimension_of
from vibe_pipeline.vbench.totals import DIMENSIONS

Protocol = Literal["vbench_standard", "vbench_subset", "vbench_custom"]

INSTALL = "pip install -r requirements/evaluation.txt && pip install --no-deps -r requirements/evaluation-nodeps.txt"
"""vbench and pyiqa ask for older versions than the core's, so they come without what they depend on."""
SAMPLES = 5
FLICKER = "temporal_flickering"
CUSTOM = "overall_consistency"
FLICKER_SAMPLES = 25
SUBSET_COUNT = 128
SEPARATOR = ";"
STATIC_FILTER = (
    "temporal_flickering is scored on every sample; VBench's own table keeps the first 5 of 25 samples that its "
    "static filter (`vbench static_filter`, RAFT) calls static"
)


def full_info_path() -> Path:
    """The installed package's list of prompts; found without importing the package.

    Raises:
        ModuleNotFoundError: vbench is not installed; the message says how to.
    """
    spec = importlib.util.find_spec("vbench")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"VBench's prompts come with its package, which is not installed: {INSTALL}")
    return Path(spec.origin).with_name("VBench_full_info.json")


def official_prompts() -> pd.DataFrame:
    """VBench's prompts in the package's order, one row a prompt.

    Returns:
        Columns prompt, and dimensions: the names of those it is scored on, in the official order, joined by ";".

    Raises:
        ModuleNotFoundError: vbench is not installed.
    """
    listed: dict[str, set[str]] = {}
    for entry in _entries():
        listed.setdefault(entry["prompt_en"], set()).update(entry["dimension"])
    rows = [(prompt, SEPARATOR.join(name for name in DIMENSIONS if name in names)) for prompt, names in listed.items()]
    return pd.DataFrame(rows, columns=["prompt", "dimensions"])


def auxiliary_info() -> Mapping[tuple[str, str], Any]:
    """(prompt, dimension) to the labels that VBench compares a clip of that prompt with.

    Raises:
        ModuleNotFoundError: vbench is not installed.
    """
    return {
        (entry["prompt_en"], dimension): info
        for entry in _entries()
        for dimension, info in entry.get("auxiliary_info", {}).items()
    }


def protocol_prompts(
    protocol: Protocol,
    count: int | None,
    seeds: Sequence[int],
    subset_seed: int,
    dimensions: Sequence[str] = (),
) -> pd.DataFrame:
    """The clips of a protocol over VBench's prompts.

    `vbench_standard` is every prompt with 5 samples, those of temporal_flickering with 25; samples are the seeds
    seeds[0], seeds[0] + 1, … `vbench_subset` is a seeded choice with every seed: in each step the next prompt of a
    shuffled list for the dimension that has fewest so far, so that a larger count contains every smaller one.
    `vbench_custom` is the 93 prompts of overall_consistency, or a seeded choice that grows likewise, with every seed;
    its clips are scored as VBench scores custom ones: on every dimension that needs no labels of VBench's own.

    Args:
        protocol: Name of the protocol, a key of `PROTOCOLS`.
        count: Prompts of the subset, 128 if None; of the custom ones, all 93 if None; the standard protocol takes none.
        seeds: At least one.
        subset_seed: Decides which prompts a choice holds.
        dimensions: Only prompts that VBench scores on one of these; empty: all 16. Not for `vbench_custom`.

    Returns:
        Columns prompt_index (place in :func:`official_prompts`), prompt, seed, dimensions (all that VBench scores
        this prompt on, joined by ";"; not there for `vbench_custom`); ordered by prompt and seed.

    Raises:
        ValueError: An unknown protocol or dimension, no seed, or a count that does not fit.
        ModuleNotFoundError: vbench is not installed.
    """
    if not seeds:
        raise ValueError("seeds is empty: give at least one")
    if protocol == "vbench_custom":
        return _custom(count, seeds, subset_seed, dimensions)
    return _labelled(protocol, count, seeds, subset_seed, dimensions)


def _labelled(
    protocol: Protocol, count: int | None, seeds: Sequence[int], subset_seed: int, dimensions: Sequence[str]
) -> pd.DataFrame:
    """The clips of a protocol that scores a prompt on the dimensions which VBench lists for it."""
    wanted = [canonical_name(name) for name in dimensions] or list(DIMENSIONS)
    prompts = official_prompts()
    names = prompts["dimensions"].str.split(SEPARATOR)
    allowed = [i for i, own in enumerate(names) if set(own) & set(wanted)]
    if protocol == "vbench_standard":
        if count is not None:
            raise ValueError(f"vbench_standard is all of VBench's prompts, count = {count} is not; use vbench_subset")
        samples = {i: _samples(names[i], wanted, seeds[0]) for i in allowed}
    elif protocol == "vbench_subset":
        chosen = _spread({i: names[i] for i in allowed}, wanted, SUBSET_COUNT if count is None else count, subset_seed)
        samples = {i: list(seeds) for i in chosen}
    else:
        raise ValueError(f"unknown protocol {protocol!r}: vbench_standard, vbench_subset or vbench_custom")
    rows = [(i, *prompts.loc[i, ["prompt", "dimensions"]], seed) for i, own in samples.items() for seed in own]
    table = pd.DataFrame(rows, columns=["prompt_index", "prompt", "dimensions", "seed"])
    return table[["prompt_index", "prompt", "seed", "dimensions"]]


def clips_per_dimension(prompts: pd.DataFrame, dimensions: Sequence[str]) -> dict[str, int]:
    """How many clips of an arm each dimension is defined on.

    Args:
        prompts: One row a clip, with `dimensions` where VBench's own prompts list them (see :func:`protocol_prompts`);
            prompts without are custom ones, which have none of the labels that some dimensions compare with.
        dimensions: Names out of VBench's 16.

    Raises:
        ValueError: A name is none of them.
    """
    own = prompts["dimensions"].fillna("") if "dimensions" in prompts else pd.Series("", index=prompts.index)
    listed = [set(text.split(SEPARATOR)) - {""} for text in own]
    counts = {}
    for name in (dimension_of(name) for name in dimensions):
        custom = not name.standard_prompts
        counts[name.name] = sum(name.name in names if names else custom for names in listed)
    return counts


def _custom(count: int | None, seeds: Sequence[int], subset_seed: int, dimensions: Sequence[str]) -> pd.DataFrame:
    """Clips of VBench's prompts of overall_consistency, not restricted to the standard protocol's dimensions."""
    if dimensions:
        raise ValueError(
            f"generation.prompt_dimensions {list(dimensions)}: vbench_custom scores every dimension on every clip; "
            "leave it out, or use vbench_subset"
        )
    prompts = official_prompts()
    names = prompts["dimensions"].str.split(SEPARATOR)
    own = {i: [CUSTOM] for i, listed in enumerate(names) if CUSTOM in listed}
    chosen = _spread(own, [CUSTOM], len(own) if count is None else count, subset_seed)
    rows = [(i, prompts.loc[i, "prompt"], seed) for i in chosen for seed in seeds]
    return pd.DataFrame(rows, columns=["prompt_index", "prompt", "seed"])


def _entries() -> list[dict[str, Any]]:
    return json.loads(full_info_path().read_text(encoding="utf-8"))


def _samples(own: Sequence[str], wanted: Sequence[str], first: int) -> list[int]:
    """Seeds of one prompt of the standard protocol."""
    flickers = FLICKER in own and FLICKER in wanted
    return list(range(first, first + (FLICKER_SAMPLES if flickers else SAMPLES)))


def _spread(names: Mapping[int, Sequence[str]], wanted: Sequence[str], count: int, seed: int) -> list[int]:
    """`count` prompts, as evenly over the wanted dimensions as they go, in ascending order."""
    if not 1 <= count <= len(names):
        raise ValueError(f"count = {count}: VBench has between 1 and {len(names)} prompts for these dimensions")
    rng = np.random.default_rng(seed)
    waiting = {name: [i for i in rng.permutation(list(names)).tolist() if name in names[i]] for name in wanted}
    chosen: set[int] = set()
    had = dict.fromkeys(wanted, 0)
    while len(chosen) < count:
        waiting = {name: [i for i in left if i not in chosen] for name, left in waiting.items()}
        poorest = min((name for name in wanted if waiting[name]), key=lambda name: had[name])
        taken = waiting[poorest][0]
        chosen.add(taken)
        had.update({name: had[name] + 1 for name in names[taken] if name in had})
    return sorted(chosen)
