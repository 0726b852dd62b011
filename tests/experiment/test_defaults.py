"""A value is said once: fields are described where they are declared, environments state what differs from defaults."""

import importlib
import pkgutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

import vibe_pipeline.experiment as room
from tests.conf_files import loader_of_conf, read_conf
from vibe_pipeline.experiment.adapters import AdapterParams
from vibe_pipeline.experiment.arms import ArmParams
from vibe_pipeline.experiment.groups import Params
from vibe_pipeline.experiment.load import GROUPS, TABLES, settled_parameters
from vibe_pipeline.experiment.training import Stage1Params

CONF = Path(__file__).parents[2] / "conf"
WAN = ("wan22_ti2v_5b", "wan21_t2v_1_3b")
ENVIRONMENTS = sorted(file.parent.name for file in CONF.glob("*/parameters.yml") if file.parent.name != "local")
ROWS = {"stage1": Stage1Params, "adapters": AdapterParams, "arms": ArmParams}


def models(above: type[BaseModel] = Params) -> Iterator[type[BaseModel]]:
    for module in pkgutil.iter_modules(room.__path__):
        importlib.import_module(f"{room.__name__}.{module.name}")
    for model in above.__subclasses__():
        yield from (model, *models(model))


FIELDS = {f"{model.__name__}.{name}": info for model in models() for name, info in model.model_fields.items()}


@pytest.mark.parametrize("field", FIELDS)
def test_every_field_says_what_it_is_and_a_number_its_range(field: str) -> None:
    info = FIELDS[field]
    assert info.description, "no description"
    if any(kind in (int, float) for kind in (info.annotation, *get_args(info.annotation))):
        assert bounded(info) or "any " in info.description, "neither a range in the type nor the word any"


def bounded(info: FieldInfo) -> bool:
    """A bound of pydantic's at the field, or inside of an optional one."""
    inside = [part for kind in get_args(info.annotation) for part in getattr(kind, "__metadata__", ())]
    inside += [part for extra in inside for part in getattr(extra, "metadata", ())]
    return any(getattr(part, side, None) is not None for part in (*info.metadata, *inside) for side in ("gt", "ge"))


@pytest.mark.parametrize("env", ENVIRONMENTS)
def test_an_environment_states_only_what_differs_from_the_defaults(env: str) -> None:
    """A value that is also the default would have two homes; one that overrides an anchor of the file is none.

    A row without fields is that of the environment which is extended, and a field may override that row's.
    """
    stated = read_conf(CONF / env)
    anchors = [value for name, value in stated.items() if name.startswith("_") and isinstance(value, Mapping)]
    found = [f"{name}.{field}" for name, model, _ in GROUPS for field in repeated(stated.get(name, {}), model, [])]
    for table, model in ROWS.items():
        for name, row in stated.get(table, {}).items():
            overridden = [*anchors, *rows_below(stated, table, name)]
            found += [f"{table}.{name}.{field}" for field in repeated(row or {}, model, overridden)]
    assert found == []


def rows_below(stated: Mapping[str, Any], table: str, name: str) -> Iterator[Mapping[str, Any]]:
    """The rows of that name in the environments that this one is laid on, the nearest first."""
    while (env := stated.get("extends")) is not None:
        stated = read_conf(CONF / env)
        yield stated.get(table, {}).get(name) or {}


def repeated(stated: Mapping[str, Any], model: type[BaseModel], anchors: list[Mapping[str, Any]]) -> Iterator[str]:
    """Fields that could be left out; of nested ones, dotted."""
    for field, value in stated.items():
        if any(anchor.get(field, value) != value for anchor in anchors):
            continue
        if same(stated, {k: v for k, v in stated.items() if k != field}, model):
            yield field
        elif isinstance(value, Mapping) and len(value) > 1:
            for inner in value:
                less = {k: v for k, v in value.items() if k != inner}
                if same(stated, {**stated, field: less}, model):
                    yield f"{field}.{inner}"


def same(one: Mapping[str, Any], other: Mapping[str, Any], model: type[BaseModel]) -> bool:
    try:
        return model.model_validate(other) == model.model_validate(one)
    except ValidationError:  # a list that is swept, or a field that is needed
        return False


@pytest.mark.parametrize("env", WAN)
def test_of_base_a_real_model_takes_nothing_but_defaults_and_what_others_published(env: str) -> None:
    """Folders of globals.yml and the catalog, which say where things lie, are base's too."""
    settled = settled_parameters(loader_of_conf(CONF, env))
    own = {name for name in read_conf(CONF / env) if not name.startswith("_")}
    assert set(TABLES) <= own and {name for name, _, required in GROUPS if required} <= own
    for name, model, _ in GROUPS:
        if name not in own:
            assert model(**settled[name]) == model(), f"{name} is not the default, but base's"
    claims = yaml.safe_load((CONF / env / "claims.yml").read_text())["claims"]
    assert [claim["name"] for claim in settled["claims"]] == [claim["name"] for claim in claims]
    assert settled["published"] == loader_of_conf(CONF, "base")["published"]


def test_a_group_that_no_file_gives_is_there_with_its_defaults() -> None:
    settled = settled_parameters(loader_of_conf(CONF, "base"))
    assert {"run", "tracking", "miniature"} <= {name for name in settled if settled[name] == {}}
    given = settled_parameters(loader_of_conf(CONF, "base", runtime_params={"run": {"wait": True}}))
    assert given["run"] == {"wait": True}
