"""Arms that may be left out: with `optional: true`, a row whose files are not there is listed and not run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vibe_pipeline.experiment.arms import ArmParams
from vibe_pipeline.experiment.errors import ParameterError
from vibe_pipeline.experiment.tables import Experiment
from vibe_pipeline.generation.peer_weights import how_to_get

NOT_RUN = "not_run"
"""The group of parameters, and the data set, that holds what was left out."""


def missing_of(arm: ArmParams, home: Path) -> tuple[str, str]:
    """Why an arm could not run, and what would mend it; two empty texts where every file that it names is there.

    Args:
        arm: The row.
        home: What its paths are relative to.
    """
    lacking = {field: path for field, path in arm.files.items() if not (home / path).exists()}
    if not lacking:
        return "", ""
    said = "; ".join(f"{field}: {path} does not exist" for field, path in lacking.items())
    steps = dict.fromkeys(how_to_get(path) or f"put {path} there" for path in lacking.values())
    return said, "; ".join(steps)


def left_out(tables: Experiment, home: Path) -> dict[str, dict[str, Any]]:
    """Optional arms whose files are not there, by name: label, reason, fix, and the row itself.

    Raises:
        ParameterError: The reference arm would be left out, or every arm.
    """
    found: dict[str, dict[str, Any]] = {}
    for name, arm in tables.arms.items():
        reason, fix = missing_of(arm, home) if arm.optional else ("", "")
        if reason:
            row = arm.model_dump(mode="json")
            found[name] = {"label": arm.label, "reason": f"not run, because {reason}", "fix": fix, "row": row}
    rest = tables.model_copy(update={"arms": {n: a for n, a in tables.arms.items() if n not in found}})
    if found and tables.reference_arm not in rest.references:
        first = next(iter(found.values()))
        raise ParameterError(
            f"evaluation.reference_arm: {tables.reference_arm!r} is optional and would not be run, so nothing could be "
            f"compared: {first['reason']}; {first['fix']}"
        )
    return found


def without_missing(params: Mapping[str, Any], tables: Experiment, home: Path) -> dict[str, Any]:
    """The parameters of a run: without the optional arms whose files are not there, which stand in `not_run`.

    Args:
        params: Of an environment, sweeps unfolded.
        tables: Of these parameters.
        home: The project's folder, which paths are relative to.

    Raises:
        ParameterError: As :func:`left_out`.
    """
    found = left_out(tables, home)
    arms = {name: row for name, row in params["arms"].items() if name not in found}
    return dict(params) | {"arms": arms, NOT_RUN: found}
