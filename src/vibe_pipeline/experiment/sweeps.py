"""Sweeps: a list where a field takes one value unfolds its row into one row per value.

Rows of `stage1`, `adapters` and `arms` may hold them, nested fields too; several give the product. A list that is
the field's value as it stands (`half_window: [2, 2]`) is none. A row that refers to a swept one unfolds with it:
fields that both sweep (`seed`, most often) are matched by value, not crossed.
"""

import copy
import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, get_args, get_origin

from pydantic import BaseModel, TypeAdapter, ValidationError

from vibe_pipeline.experiment.adapters import AdapterParams
from vibe_pipeline.experiment.arms import ArmParams
from vibe_pipeline.experiment.origin import Unfolded
from vibe_pipeline.experiment.sweep_names import label_with, name_with, replicate_of
from vibe_pipeline.experiment.training import Stage1Params
from vibe_pipeline.io.keys import content_key

# Steps of an arm denoise, steps of its adapter train: one name for two things, which nothing could match.
_UNLIKE = frozenset({("arms", "steps")})
_NOT_SWEPT = frozenset({"label", *Unfolded.model_fields})

Row = dict[str, Any]


@dataclass(frozen=True)
class Variant:
    """One row of an unfolded table; `family` is None for a row as it was written."""

    name: str
    row: Row
    family: str | None = None
    swept: dict[str, Any] = field(default_factory=dict)
    stands_for: tuple[Row, ...] = ()


@dataclass(frozen=True)
class Target:
    """What rows of one table may refer to in another: its variants by the name as written, and what became of each."""

    table: str
    families: dict[str, list[Variant]]
    kept: dict[str, str]


def unfold(params: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters with every sweep unfolded; those without lists stay the very same objects.

    Returns:
        A copy whose unfolded adapters and arms say where they came from: `family` and `swept`, and for arms whose
        training seed is swept `replicate`. Rows of identical content, the label aside, become one where a sweep made
        either of them: the row as written stays, else the first; references follow, `stands_for` says for whom.

    Raises:
        ValueError: An empty list, a value its field does not take, two rows of one name, or a value for which the
            row referred to has no variant; names row, field and value.
    """
    unfolded = dict(params)
    target: Target | None = None
    tables = (("stage1", Stage1Params, None), ("adapters", AdapterParams, "start"), ("arms", ArmParams, "adapter"))
    for table, model, link in tables:
        rows = params.get(table)
        if not isinstance(rows, Mapping):
            return unfolded
        variants = [
            v
            for name, row in rows.items()
            for v in _variants(table=table, name=name, row=row, model=model, link=link, target=target)
        ]
        kept, names = _collapse(table, variants, model)
        families: dict[str, list[Variant]] = {}
        for variant in variants:
            if variant.family is not None:
                families.setdefault(variant.family, []).append(variant)
        unfolded[table] = {v.name: _written(v, table) for v in kept}
        target = Target(table, families, names)
    _require_free_pools(unfolded["arms"])
    return unfolded


def _variants(
    table: str, name: str, row: Any, model: type[BaseModel], link: str | None, target: Target | None
) -> Iterator[Variant]:
    if not isinstance(row, Mapping):
        yield Variant(name, row)
        return
    fields = dict(_sweeps(row, model, f"{table}.{name}"))
    made = []
    for values in itertools.product(*fields.values()):
        own = dict(zip(fields, values, strict=True))
        filled = _filled(row, own)
        if link and target:
            made += _linked(
                table=table,
                name=name,
                row=filled,
                own=own,
                link=link,
                target=target,
                default=model.model_fields[link].default,
            )
        else:
            made.append((filled, own))
    for filled, swept in made:
        if not swept:
            yield Variant(name, filled)
            continue
        _require_valid(filled, swept, model, f"{table}.{name}")
        yield Variant(name_with(name, swept), filled, name, swept)


def _sweeps(
    value: Mapping[str, Any], model: type[BaseModel], where: str, prefix: str = ""
) -> Iterator[tuple[str, list[Any]]]:
    """Swept fields, dotted, with their values."""
    for key, item in value.items():
        info = model.model_fields.get(key)
        if info is None or key in _NOT_SWEPT:
            continue
        inner = _model_in(info.annotation)
        if isinstance(item, Mapping) and inner is not None:
            yield from _sweeps(item, inner, where, f"{prefix}{key}.")
        elif isinstance(item, Mapping) and get_origin(info.annotation) is dict:
            takes = TypeAdapter(get_args(info.annotation)[1]).validate_python
            for name, values in item.items():
                if isinstance(values, list):
                    yield f"{prefix}{key}.{name}", _values(values, takes, f"{where}: {prefix}{key}.{name}")
        elif isinstance(item, list):
            declared: Any = Annotated[info.annotation, info]
            takes = TypeAdapter(declared).validate_python
            if _error(takes, item) and (_is_sweep(item) or not _takes_lists(info.annotation)):
                yield f"{prefix}{key}", _values(item, takes, f"{where}: {prefix}{key}")


def _takes_lists(annotation: Any) -> bool:
    return any(get_origin(a) in (tuple, list) for a in (annotation, *get_args(annotation)))


def _is_sweep(values: list[Any]) -> bool:
    """Whether a list that is not a value of a field which takes lists can be one of its values each, or none (null)."""
    return not values or any(value is None or isinstance(value, list) for value in values)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    found = (a for a in (annotation, *get_args(annotation)) if isinstance(a, type) and issubclass(a, BaseModel))
    return next(found, None)


def _values(values: list[Any], takes: Callable[[Any], Any], where: str) -> list[Any]:
    if not values:
        raise ValueError(f"{where} is an empty list: give it the values to sweep, or one value")
    for value in values:
        if problem := _error(takes, value):
            raise ValueError(f"{where} = {value!r} in the sweep {values!r}: {problem}")
    return values


def _error(takes: Callable[[Any], Any], value: Any) -> str:
    """The first complaint about a value; empty if there is none."""
    try:
        takes(value)
    except ValidationError as error:
        first = error.errors()[0]
        inside = ".".join(map(str, first["loc"]))
        return f"{inside}: {first['msg']}" if inside else str(first["msg"])
    return ""


def _filled(row: Mapping[str, Any], values: Mapping[str, Any]) -> Row:
    """The row with each swept field set; the very same object where there is none."""
    if not values:
        return row  # type: ignore[return-value]
    filled = copy.deepcopy(dict(row))
    for path, value in values.items():
        *parents, last = path.split(".")
        inner = filled
        for parent in parents:
            inner = inner[parent]
        inner[last] = value
    return filled


def _linked(
    table: str, name: str, row: Row, own: dict[str, Any], link: str, target: Target, default: str | None
) -> list[tuple[Row, dict[str, Any]]]:
    """The row once for each variant of the row that it refers to, with the values swept there."""
    wanted = row.get(link, default)
    if not isinstance(wanted, str):
        return [(row, own)]
    if wanted not in target.families:
        kept = target.kept.get(wanted, wanted)
        return [(row if kept == wanted else {**row, link: kept}, own)]
    variants = target.families[wanted]
    shared = [f for f in own if (table, f) not in _UNLIKE and any(f in v.swept for v in variants)]
    for key in shared:
        if not any(v.swept.get(key) == own[key] for v in variants):
            there = ", ".join(dict.fromkeys(str(v.swept.get(key)) for v in variants))
            raise ValueError(
                f"{table}.{name}: {key} = {own[key]!r}, but {target.table}.{wanted} sweeps {key} over {there}; fields "
                "that both sweep are matched by value, so give both the same"
            )
    matching = [v for v in variants if all(v.swept.get(key) == own[key] for key in shared)]
    return [
        ({**row, link: target.kept[v.name]}, own | {f"{link}.{k}": x for k, x in v.swept.items() if k not in shared})
        for v in matching
    ]


def _require_valid(row: Row, swept: Mapping[str, Any], model: type[BaseModel], where: str) -> None:
    if problem := _error(model.model_validate, row):
        values = ", ".join(f"{k} = {v!r}" for k, v in swept.items())
        raise ValueError(f"{where} with {values}: {problem}")


def _collapse(table: str, variants: list[Variant], model: type[BaseModel]) -> tuple[list[Variant], dict[str, str]]:
    """The rows that stay, in order, and for every name the one that it became."""
    alike: dict[str, list[Variant]] = {}
    for variant in variants:
        alike.setdefault(_content(variant, model), []).append(variant)
    names: dict[str, str] = {}
    stays: dict[int, Variant] = {}
    for group in alike.values():
        written = [v for v in group if v.family is None]
        first = written[0] if written else group[0]
        others = [v for v in group if v.family is not None and v is not first]
        origins = {v.family: _origin(v, table) for v in others if v.family != first.family}
        names |= {v.name: first.name for v in others} | {v.name: v.name for v in written}
        for v in written or [first]:
            stays[id(v)] = replace(v, stands_for=tuple(origins.values())) if v is first else v
        names[first.name] = first.name
    kept = [stays[id(v)] for v in variants if id(v) in stays]
    _require_names_apart(table, kept)
    return kept, names


def _content(variant: Variant, model: type[BaseModel]) -> str:
    """What a row says, its label aside; of a row that is refused later, its name."""
    try:
        return content_key(model.model_validate(variant.row).model_dump(mode="json", exclude={"label"}))
    except ValidationError:
        return variant.name


def _require_names_apart(table: str, rows: list[Variant]) -> None:
    seen: dict[str, Variant] = {}
    for row in rows:
        if row.name in seen:
            both = " and ".join(v.family or v.name for v in (seen[row.name], row))
            raise ValueError(f"{table}: {both} unfold to the same name {row.name!r} with unlike content; rename one")
        seen[row.name] = row


def _origin(variant: Variant, table: str) -> Row:
    origin = {"family": variant.family, "swept": variant.swept}
    replicate = replicate_of(variant.family or variant.name, variant.row.get("label", ""), variant.swept)
    return origin | ({"replicate": replicate} if replicate and table == "arms" else {})


def _written(variant: Variant, table: str) -> Row:
    """The row as it goes back into the parameters."""
    row = variant.row
    if variant.stands_for and table != "stage1":
        row = {**row, "stands_for": list(variant.stands_for)}
    if variant.family is None or table == "stage1":
        return row
    label = row.get("label", variant.family)
    return {**row, "label": label_with(label, variant.swept)} | _origin(variant, table)


def _require_free_pools(arms: Mapping[str, Any]) -> None:
    """Replicates are pooled under a name that no other arm may have."""
    for name, row in arms.items():
        for origin in (row, *row.get("stands_for", ())) if isinstance(row, Mapping) else ():
            pool = (origin.get("replicate") or {}).get("of")
            if pool in arms and pool != name:
                raise ValueError(
                    f"arms.{origin['family']}: its training seeds are pooled into {pool!r}, the name of another arm; "
                    "rename one"
                )
