"""Names and labels of the rows that a sweep makes, and which of them are replicates of one arm."""

import re
from collections.abc import Mapping
from typing import Any


def name_with(family: str, swept: Mapping[str, Any]) -> str:
    """A readable row name, seeds last: `full`, {seed: 1, objective.hfato: 0.25} give `full_hfato_0p25_seed_1`."""
    heads = short_fields(swept)
    return "_".join([family, *(f"{heads[path]}_{token(swept[path])}" for path in sorted(swept, key=is_seed))])


def label_with(label: str, swept: Mapping[str, Any]) -> str:
    """A label that says the values, seeds last."""
    if not swept:
        return label
    heads = short_fields(swept)
    ordered = sorted(swept, key=is_seed)
    values = ", ".join(f"{heads[path].replace('_', ' ')} {shown(swept[path])}" for path in ordered)
    return f"{label} ({values})"


def replicate_of(family: str, label: str, swept: Mapping[str, Any]) -> dict[str, str] | None:
    """The arm that a variant is pooled into, its label, and the variant's training seed; None if no seed is swept."""
    seeds = {path: value for path, value in swept.items() if is_seed(path)}
    others = {path: value for path, value in swept.items() if path not in seeds}
    if not seeds:
        return None
    seed = ", ".join(str(value) for value in seeds.values())
    return {"of": name_with(family, others) if others else family, "label": label_with(label, others), "seed": seed}


def is_seed(path: str) -> bool:
    """Whether a dotted field is a training seed."""
    return path.rsplit(".", 1)[-1] == "seed"


def short_fields(paths: Mapping[str, Any]) -> dict[str, str]:
    """The shortest endings of dotted fields that tell them apart; the kind of a thing goes by the thing's name."""
    parts = {path: path.removesuffix(".kind").split(".") for path in paths}
    longest = max(map(len, parts.values()), default=1)
    short = {}
    for path, own in parts.items():
        for length in range(1, longest + 1):
            ending = own[-length:]
            if all(other[-length:] != ending for key, other in parts.items() if key != path):
                break
        short[path] = "_".join(ending)
    return short


def shown(value: Any) -> str:
    """A value for people."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    if isinstance(value, float):
        return _short(value)
    if isinstance(value, list | tuple):
        return "×".join(map(shown, value)) if all(isinstance(v, int) for v in value) else ", ".join(map(shown, value))
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {shown(v)}" for k, v in value.items())
    return str(value)


def token(value: Any) -> str:
    """A value as part of a row name: lower case, digits, underscores."""
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    if isinstance(value, int | float):
        text = str(value) if isinstance(value, int) else _short(value)
        return text.replace("-", "m").replace("+", "").replace(".", "p")
    if isinstance(value, list | tuple):
        return ("x" if all(isinstance(v, int) for v in value) else "_").join(map(token, value))
    if isinstance(value, Mapping):
        return "_".join(map(token, value.values()))
    return re.sub(r"[^a-z0-9]+", "_", str(value).lower()).strip("_") or "empty"


def _short(value: float) -> str:
    text = f"{value:g}"
    return text if float(text) == value else repr(value)
