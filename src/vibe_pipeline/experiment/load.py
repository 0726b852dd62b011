"""Reading the parameters of a project: whatever is wrong with them is one line that names file or field."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ValidationError
from yaml import YAMLError

from vibe_pipeline.experiment.claims import load_claims
from vibe_pipeline.experiment.data import DataParams
from vibe_pipeline.experiment.errors import ParameterError
from vibe_pipeline.experiment.evaluation import EvaluationParams
from vibe_pipeline.experiment.folders import Folders
from vibe_pipeline.experiment.generation import GenerationParams
from vibe_pipeline.experiment.miniature import MiniatureParams
from vibe_pipeline.experiment.model import ModelParams
from vibe_pipeline.experiment.published import load_published
from vibe_pipeline.experiment.run import ReportParams, RunParams, TrackingParams
from vibe_pipeline.experiment.sweeps import unfold
from vibe_pipeline.experiment.tables import Experiment
from vibe_pipeline.io.errors import did_you_mean, not_utf8, one_line, refusal
from vibe_pipeline.io.yaml_files import yaml_fault

if TYPE_CHECKING:
    from vibe_pipeline.experiment.loader import LayeredLoader

TABLES = ("stage1", "adapters", "arms")
GROUPS: tuple[tuple[str, type[BaseModel], bool], ...] = (
    ("model", ModelParams, True),
    ("data", DataParams, True),
    ("generation", GenerationParams, True),
    ("evaluation", EvaluationParams, True),
    ("miniature", MiniatureParams, False),
    ("report", ReportParams, False),
    ("run", RunParams, False),
    ("tracking", TrackingParams, False),
)


def read_parameters(loader: "LayeredLoader") -> dict[str, Any]:
    """The parameters of the loader's environment.

    Raises:
        ParameterError: A file is not YAML, has a key twice, a tag that would make an object, or refers to nothing.
    """
    try:
        return loader["parameters"]
    except ParameterError:
        raise
    except (YAMLError, OmegaConfBaseException, UnicodeDecodeError, AttributeError, ValueError) as error:
        place = _culprit(loader)
        if isinstance(error, UnicodeDecodeError) and place.is_file():
            raise ParameterError(not_utf8(place)) from None
        text = place.read_text(encoding="utf-8-sig", errors="replace") if place.is_file() else ""
        raise ParameterError(f"{place} cannot be read as parameters: {yaml_fault(error, text)}") from None


def settled_parameters(loader: "LayeredLoader") -> dict[str, Any]:
    """The parameters of the loader's environment, every group checked, sweeps unfolded: what a run works with.

    Beside the groups and tables stand `folders`, `claims` and `published`, which are files of their own.

    Raises:
        ParameterError: A file cannot be read, or a value cannot be used.
        ValueError: A sweep cannot be unfolded.
    """
    params = read_parameters(loader)
    check_groups(params)
    folders = _folders(loader).model_dump(mode="json")
    return _left_out() | unfold(params) | {"folders": folders} | _own_files(loader)


def _left_out() -> dict[str, Any]:
    """Groups whose fields all have defaults, for those that no file gives: nodes ask for them by name."""
    return {name: {} for name, _, required in GROUPS if not required}


def _folders(loader: "LayeredLoader") -> Folders:
    """Where a run reads and writes: `folders` of globals.yml, with the environment whose they are."""
    file = loader.file_of("globals") or f"{Path(loader.conf_source) / 'base/globals.yml'}, which is not there"
    try:
        folders = Folders.model_validate(loader["globals"].get("folders", {}))
    except ValidationError as error:
        raise ParameterError(f"{file}: {refusal(error, 'folders', Folders)}") from None
    if folders.env:
        raise ParameterError(f"{file}: folders.env {folders.env!r}: take it out; --env chooses the environment")
    return folders.model_copy(update={"env": loader.env or ""})


def _own_files(loader: "LayeredLoader") -> dict[str, Any]:
    """What the report reads: claims.yml and published.yml; where neither environment nor base has one, nothing."""
    claims, published = loader.file_of("claims"), loader.files_of("published")
    try:
        tested = load_claims(claims) if claims else ()
        return {
            "claims": [claim.model_dump() for claim in tested],
            "published": load_published(*published) if published else {},
        }
    except (ValueError, OSError) as error:
        raise ParameterError(str(error)) from None


def check_groups(params: Mapping[str, Any]) -> None:
    """Check every group of parameters but the tables, which are checked against each other elsewhere.

    Raises:
        ParameterError: A group is missing or unknown, or a value is wrong; names the field and the value.
    """
    known = (*(name for name, _, _ in GROUPS), *TABLES)
    # Kedro keeps names with an underscore in front for YAML anchors.
    if unknown := [key for key in params if key not in known and not str(key).startswith("_")]:
        raise ParameterError(_unknown_group(unknown[0], known))
    needed = (*(name for name, _, required in GROUPS if required), *TABLES)
    if lacking := [name for name in needed if name not in params]:
        raise ParameterError(f"parameters: the group {lacking[0]!r} is missing")
    for name, model, _ in GROUPS:
        if name in params:
            _require(model, params[name], name)
    for name in TABLES:
        if not isinstance(params[name], Mapping):
            raise ParameterError(f"{name}: should be a table of named rows, not {one_line(repr(params[name]), 60)}")


def experiment_of(params: Mapping[str, Any]) -> Experiment:
    """The tables of a parameters dictionary, their sweeps unfolded, checked against each other.

    Raises:
        ParameterError: A row is wrong, or contradicts another; names the field and the value.
    """
    params = unfold(params)
    try:
        return Experiment(
            stage1=params["stage1"],
            adapters=params["adapters"],
            arms=params["arms"],
            reference_arm=params["evaluation"]["reference_arm"],
            stop_after_preview=params["generation"].get("stop_after_preview", False),
        )
    except ValidationError as error:
        raise ParameterError(refusal(error, model=Experiment)) from None


def _unknown_group(name: object, known: Sequence[str]) -> str:
    said = f"parameters: {one_line(name, 60)!r} is not a group"
    head, _, field = str(name).partition(".")
    if head == "folders":
        return f"{said}; folders are moved by a globals.yml in the environment's folder, or in conf/local"
    if field and head in known:
        return f"{said}; write the field inside its group, as `{head}: {{{one_line(field, 60)}: ...}}`"
    return f"{said}; there are {', '.join(known)}{did_you_mean(name, known)}"


def _require(model: type[BaseModel], values: Any, name: str) -> None:
    try:
        model.model_validate(values)
    except ValidationError as error:
        # Without its cause, which would show values whole, credentials among them.
        raise ParameterError(refusal(error, name, model)) from None


def _culprit(loader: "LayeredLoader") -> Path:
    """The first file of parameters that cannot be read alone; else the folder."""
    for file in sorted(file for file in set(loader.files_of("parameters")) if file.is_file()):
        try:
            content = OmegaConf.load(file)
            OmegaConf.to_container(content, resolve=True)
            if not OmegaConf.is_dict(content):
                return file
        except (YAMLError, OmegaConfBaseException, UnicodeDecodeError, OSError, ValueError):
            return file
    return Path(loader.conf_source)
