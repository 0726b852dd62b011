"""The prompts of a run: VBench's own list, a file, or the miniature's held-out captions."""

import json
import logging
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from vibe_pipeline.experiment.generation import GenerationParams
from vibe_pipeline.images.reading import BadImage, load_rgb
from vibe_pipeline.io.errors import absent_columns, not_utf8, one_line
from vibe_pipeline.io.keys import file_sha256
from vibe_pipeline.io.named import require_file
from vibe_pipeline.miniature.scene import sample_scenes

log = logging.getLogger(__name__)

HELD_OUT_SEED = 20_260
# What Unicode counts among white space or the ends of lines, and a text file may hold within one.
_WITHIN_A_LINE = str.maketrans(dict.fromkeys("\r\x0b\x0c\x1c\x1d\x1e\x1f\x85\u2028\u2029", " "))
VBENCH_PROTOCOLS = ("vbench_standard", "vbench_subset", "vbench_custom")
FOUR_K = "4k_vbench"
FOUR_K_HINT = (
    "prompts 4k_vbench reads T3-Video's list of prompts, which does not come with this project: put "
    "4K-VBench/4K-Vbench.json of the repository zhangzjn/T3-Video there, or name where it is"
)


def load_prompts(params: GenerationParams) -> pd.DataFrame:
    """One row per (prompt, seed), of this shard if there are shards.

    Returns:
        Columns prompt_index, prompt, seed; for vbench_standard and vbench_subset also `dimensions` (names joined by
        `;`), with first frames also first_frame (a path), first_frame_sha256, first_frame_height and first_frame_width
        (pixels).

    Raises:
        FileNotFoundError: No such file of prompts, or an image that it names is not there.
        ValueError: No prompts, the same one twice, a bad entry, or a first frame that is not an image or outside of the
            file's folder; names the file and the line.
    """
    table = _all_rows(params)
    if params.shard is None:
        return table
    index, count = (int(n) for n in params.shard.split("/"))
    mine = table.iloc[index - 1 :: count].reset_index(drop=True)
    if mine.empty:
        raise ValueError(f"generation.shard: {params.shard} is empty, there are only {len(table)} (prompt, seed) pairs")
    return mine


def prompt_rows(prompts: Sequence[str], seed: int, first_frame: Path | None = None) -> pd.DataFrame:
    """Rows as of :func:`load_prompts`, of prompts that are given one by one.

    Raises:
        ValueError: Not a prompt, the same one twice, or the first frame is not an image.
    """
    entries = [{"prompt": " ".join(prompt.split())} for prompt in prompts]
    _check_prompts(Path("the prompts"), list(enumerate(entries, start=1)))
    if first_frame is not None:
        facts = _examined(require_file(first_frame, "the first frame"), f"the first frame {first_frame}")
        entries = [entry | facts for entry in entries]
    return pd.DataFrame([{"prompt_index": i} | entry | {"seed": seed} for i, entry in enumerate(entries)])


def _all_rows(params: GenerationParams) -> pd.DataFrame:
    if params.prompts in VBENCH_PROTOCOLS:
        # Not at the top: it reads the vbench package, which only VBench's own list needs.
        from vibe_pipeline.vbench.prompts import protocol_prompts

        protocol: Any = params.prompts
        return protocol_prompts(protocol, params.count, params.seeds, params.subset_seed, params.prompt_dimensions)
    if params.prompts == "miniature":
        wanted = params.skip + (params.count or 64)
        scenes = sample_scenes(np.random.default_rng(HELD_OUT_SEED), wanted, held_out=True)
        entries: list[dict[str, Any]] = [{"prompt": s.caption} for s in scenes]
    elif params.prompts == FOUR_K:
        entries = _four_k_vbench(params.prompts_4k_vbench or Path())
    else:
        entries = _from_file(Path(params.prompts))
    last = params.skip + params.count if params.count else None
    chosen = list(enumerate(entries))[params.skip : last]
    _require_some(params, len(entries), len(chosen))
    return pd.DataFrame([{"prompt_index": i} | e | {"seed": s} for i, e in chosen for s in params.seeds])


def _require_some(params: GenerationParams, there: int, chosen: int) -> None:
    """Say or refuse, before anything is rendered, that there are fewer prompts than asked for."""
    if not there:
        raise ValueError(f"generation.prompts: {one_line(params.prompts)} holds no prompts")
    if not chosen:
        raise ValueError(
            f"generation.prompts: {one_line(params.prompts)} holds no prompts after generation.skip {params.skip}, "
            f"only {there} in all"
        )
    if params.count and chosen < params.count:
        log.warning(
            "generation.count asks for %d prompts after skip %d; %s has only %d of them, so %d are used",
            *(params.count, params.skip, one_line(params.prompts), chosen, chosen),
        )


def _from_file(path: Path) -> list[dict[str, Any]]:
    require_file(path, "generation.prompts", "give a .txt, .csv or .jsonl of prompts")
    readers = {".txt": _lines, ".csv": _csv, ".jsonl": _jsonl}
    if path.suffix not in readers:
        raise ValueError(f"generation.prompts: {path} is not .txt, .csv or .jsonl")
    try:
        entries = readers[path.suffix](path)
    except UnicodeDecodeError as error:
        raise ValueError(not_utf8(path)) from error
    _check_prompts(path, entries)
    framed = [line for line, entry in entries if "first_frame" in entry]
    if framed and len(framed) < len(entries):
        raise ValueError(f"{path}: line {framed[0]} has a first_frame, others have none; give all of them one")
    return [entry | _first_frame(path, line, entry) for line, entry in entries]


def _four_k_vbench(path: Path) -> list[dict[str, Any]]:
    """The prompts of 4K-VBench: a JSON list of objects with `prompt_en`."""
    require_file(path, "generation.prompts_4k_vbench", FOUR_K_HINT)
    try:
        rows = json.loads(path.read_bytes().decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"generation.prompts_4k_vbench: {path} is not JSON: {one_line(error, 120)}") from error
    texts: list[Any] = [row.get("prompt_en") for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
    if not texts or len(texts) < len(rows) or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"generation.prompts_4k_vbench: {path} is not a list of objects that have a text `prompt_en`")
    entries = [(place, {"prompt": " ".join(text.split())}) for place, text in enumerate(texts, 1)]
    _check_prompts(path, entries, "entry")
    return [entry for _, entry in entries]


def _lines(path: Path) -> list[tuple[int, dict[str, Any]]]:
    lines = ((i, line.translate(_WITHIN_A_LINE).strip()) for i, line in numbered_lines(path))
    return [(i, {"prompt": line}) for i, line in lines if line]


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    r"""The lines of a UTF-8 text file and their numbers from 1.

    They end at \n or \r\n alone: `str.splitlines` breaks prompts and JSON at U+2028, U+0085 and form feeds too. A
    file that has only \r, as old Macs wrote them, ends its lines there.
    """
    text = path.read_bytes().decode("utf-8-sig")
    text = text.replace("\r\n", "\n") if "\n" in text else text.replace("\r", "\n")
    yield from enumerate(text.split("\n"), 1)


def _csv(path: Path) -> list[tuple[int, dict[str, Any]]]:
    return [(i, _known(path, i, row)) for i, row in enumerate(read_table(path).to_dict("records"), 2)]


def read_table(path: Path) -> pd.DataFrame:
    """A CSV file as text, its columns named by the first row.

    Raises:
        ValueError: No CSV, a row with more values than there are columns, or two columns of one name.
    """
    try:
        # The names are taken below: pandas would make an index of a first row's surplus values, in silence.
        table = pd.read_csv(path, keep_default_na=False, dtype=str, header=None)
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise ValueError(f"{path} cannot be read as CSV: {one_line(error)}") from error
    names = table.iloc[0]
    if names.duplicated().any():
        raise ValueError(f"{path}: the column {one_line(repr(names[names.duplicated()].iloc[0]), 60)} stands twice")
    return table.iloc[1:].set_axis(names.tolist(), axis=1)


def _jsonl(path: Path) -> list[tuple[int, dict[str, Any]]]:
    entries = []
    for i, line in numbered_lines(path):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            raise ValueError(f"{path}, line {i} is not JSON: {error}") from error
        entries.append((i, _known(path, i, row)))
    return entries


def _known(path: Path, line: int, row: Any) -> dict[str, Any]:
    """The columns that are read: prompt, and first_frame where the file has it."""
    lacking = f"{path}, line {line}: no text in the column `prompt`"
    if not isinstance(row, dict):
        raise ValueError(f"{lacking}: {one_line(repr(row), 60)} is not an object")
    if absent := absent_columns(["prompt"], [str(name) for name in row]):
        raise ValueError(f"{lacking}: the table {absent}")
    if not isinstance(row["prompt"], str):
        raise ValueError(f"{lacking}, but {one_line(repr(row['prompt']), 60)}")
    entry = {"prompt": " ".join(row["prompt"].split())}
    return entry | ({"first_frame": row["first_frame"]} if "first_frame" in row else {})


def _check_prompts(path: Path, entries: list[tuple[int, dict[str, Any]]], unit: str = "line") -> None:
    seen: dict[str, int] = {}
    for line, entry in entries:
        prompt = entry["prompt"]
        if not any(letter.isalnum() for letter in prompt):
            raise ValueError(
                f"{path}, {unit} {line}: {one_line(repr(prompt))} is not a prompt: no letter or digit in it"
            )
        if any(unicodedata.category(letter) in ("Cc", "Cs") for letter in prompt.replace("\t", " ")):
            raise ValueError(f"{path}, {unit} {line}: {one_line(ascii(prompt))} holds control characters")
        if prompt in seen:
            raise ValueError(
                f"{path}, {unit} {line}: {one_line(repr(prompt))} stands twice, in {unit} {seen[prompt]} too; scores "
                "are paired by prompt, list each once"
            )
        seen[prompt] = line


def _first_frame(path: Path, line: int, entry: dict[str, Any]) -> dict[str, Any]:
    if "first_frame" not in entry:
        return {}
    name, home = str(entry["first_frame"]), path.parent.resolve()
    place, shown = f"{path}, line {line}", f"first_frame {one_line(repr(name))}"
    try:
        image = (home / name).resolve()
        there = image.is_file()
    except (OSError, ValueError) as error:  # null bytes, names too long or not UTF-8
        raise ValueError(f"{place}: {shown} can be no file: {one_line(error, 60)}") from error
    if not image.is_relative_to(home):
        raise ValueError(f"{place}: {shown} leaves the folder of the prompts")
    if not there:
        raise FileNotFoundError(f"{place}: there is no {shown}")
    return _examined(image, f"{place}: {shown}")


def _examined(image: Path, what: str) -> dict[str, Any]:
    try:
        height, width = load_rgb(image).shape[:2]  # now, rather than when the model is loaded
    except BadImage as bad:
        raise ValueError(f"{what} cannot be used: {bad.reason}: {bad.value}") from bad
    size = {"first_frame_height": height, "first_frame_width": width}
    return {"first_frame": str(image), "first_frame_sha256": file_sha256(image)} | size
