"""The parameters as a JSON schema, for editors: every field with what it is, its unit, range and default.

Files of one environment are laid on each other, so no field is required in any of them; a row's field takes a list
where it is swept. What only a whole row can tell (fields that exclude each other) is left to the run's own checks.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from vibe_pipeline.experiment.adapters import AdapterParams
from vibe_pipeline.experiment.arms import ArmParams
from vibe_pipeline.experiment.attention import AttentionParams
from vibe_pipeline.experiment.kinds import KindParams
from vibe_pipeline.experiment.load import GROUPS
from vibe_pipeline.experiment.rope import RopeParams
from vibe_pipeline.experiment.training import Stage1Params

DIALECT = "https://json-schema.org/draft/2020-12/schema"
ROWS: Mapping[str, type[BaseModel]] = {"stage1": Stage1Params, "adapters": AdapterParams, "arms": ArmParams}

Schema = dict[str, Any]


def parameters_schema(methods: Sequence[str]) -> Schema:
    """The schema of parameters.yml and experiment.yml alike.

    Args:
        methods: What an arm's `method` may be.
    """
    defs: Schema = {}
    properties: Schema = {
        "extends": {"type": "string", "description": "the environment that this one is laid on (conf/README.md)"}
    }
    for name, model, _ in GROUPS:
        properties[name] = _group(model, defs)
    rows = {name: _row(model, defs) for name, model in ROWS.items()}
    _choose(defs, methods, rows["arms"])
    for name in ROWS:
        row = {"anyOf": [rows[name], {"type": "null"}]}  # null: that of the environment which is extended, as it is
        properties[name] = {
            "type": "object",
            "description": f"rows of {name}; each is one branch of the graph",
            "additionalProperties": row,
        }
    return {
        "$schema": DIALECT,
        "title": "Parameters of vibe_pipeline",
        "type": "object",
        "properties": properties,
        "patternProperties": {"^_": {"description": "a YAML anchor: values to repeat, not parameters"}},
        "additionalProperties": False,
        "$defs": defs,
    }


def _group(model: type[BaseModel], defs: Schema) -> Schema:
    made = model.model_json_schema(ref_template="#/$defs/{model}")
    defs |= {name: _optional(part) for name, part in made.pop("$defs", {}).items()}
    return _optional(made)


def _row(model: type[BaseModel], defs: Schema) -> Schema:
    """A row and what it holds: each field its value, or a list of values to sweep."""
    made = model.model_json_schema(ref_template="#/$defs/row_{model}")
    internal = {name for name, field in model.model_fields.items() if field.exclude}
    made["properties"] = {name: part for name, part in made["properties"].items() if name not in internal}
    parts = {f"row_{name}": _swept(_optional(part)) for name, part in made.pop("$defs", {}).items()}
    defs |= {name: part for name, part in parts.items() if name not in ("row_Origin", "row_Replicate")}
    return _swept(_optional(made))


def _optional(part: Schema) -> Schema:
    """Without what is required: another layer may say it."""
    return {name: value for name, value in part.items() if name != "required"}


def _swept(part: Schema) -> Schema:
    if "properties" not in part:
        return part
    fields = {name: _or_several(field) for name, field in part["properties"].items()}
    return part | {"properties": fields}


def _or_several(field: Schema) -> Schema:
    """A field, or a list of what it takes; what is said of it stands outside, where editors look."""
    said = {name: field[name] for name in ("title", "description", "default") if name in field}
    one = {name: value for name, value in field.items() if name not in said}
    if isinstance(values := one.get("additionalProperties"), dict):  # by name, as weights of objectives
        one["additionalProperties"] = {"anyOf": [values, {"type": "array", "items": values, "minItems": 1}]}
    return said | {"anyOf": [one, {"type": "array", "items": one, "minItems": 1}]}


def _choose(defs: Schema, methods: Sequence[str], arms: Schema) -> None:
    """Name the entries of registries, which their fields take as text; as values where the file has one, or several."""
    chosen: dict[str, type[KindParams]] = {"AttentionParams": AttentionParams, "RopeParams": RopeParams}
    for part, model in chosen.items():
        for name in (part, f"row_{part}"):
            if name in defs:
                defs[name]["properties"]["kind"] |= _one_or_several(list(model.entries()))
    arms["properties"]["method"] |= _one_or_several(list(methods))


def _one_or_several(names: Sequence[str]) -> Schema:
    return {"anyOf": [{"enum": names}, {"type": "array", "items": {"enum": names}, "minItems": 1}]}
