"""Replicates: arms that differ in training seeds alone are one arm with several trainings."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import pandas as pd

from vibe_pipeline.evaluation.differences import TRAINING
from vibe_pipeline.experiment.arms import ArmParams
from vibe_pipeline.experiment.origin import Origin
from vibe_pipeline.experiment.sweep_names import is_seed
from vibe_pipeline.experiment.tables import Experiment


@dataclass(frozen=True)
class Pools:
    """The arms that a run compares.

    Attributes:
        arms: By name, in the order of the parameters; replicates appear once.
        members: (arm as run, arm as compared, training seed).
        references: For each arm as compared, the one that its differences are taken to.
    """

    arms: Mapping[str, ArmParams]
    members: tuple[tuple[str, str, str], ...]
    references: Mapping[str, str]

    def pool(self, table: pd.DataFrame) -> pd.DataFrame:
        """A table with a column `arm`, under the names of the pooled arms, with a column `training_seed`.

        Without any replicates it stays as it is.
        """
        if table.empty or all(arm == pool for arm, pool, _ in self.members):
            return table
        names = pd.DataFrame(self.members, columns=["arm", "_pool", TRAINING])
        joined = table.merge(names, on="arm", how="left", sort=False)
        joined["arm"] = joined["_pool"].fillna(joined["arm"])
        return joined.drop(columns="_pool").assign(**{TRAINING: joined[TRAINING].fillna("")})

    def export(self, scores: pd.DataFrame) -> pd.DataFrame:
        """The scores of every arm as run and, beside them, of the arms that replicates are pooled into."""
        pooled = self.pool(scores)
        if pooled is scores:
            return scores.assign(**{TRAINING: ""})
        return pd.concat(
            [scores.assign(**{TRAINING: ""}), pooled[~pooled["arm"].isin(scores["arm"].unique())]], ignore_index=True
        )

    def mean_spectra(self, spectra: pd.DataFrame) -> pd.DataFrame:
        """Spectra (arm, cycles, power), averaged over replicates."""
        pooled = self.pool(spectra)
        return (
            pooled
            if pooled is spectra
            else pooled.groupby(["arm", "cycles"], sort=False, as_index=False)["power"].mean()
        )


def pools_of(tables: Experiment) -> Pools:
    """Pool the replicates of the tables' arms, and find each arm's reference.

    Raises:
        ValueError: The reference arm is neither an arm, a swept row nor a pool.
    """
    members: list[tuple[str, str, str]] = []
    arms: dict[str, ArmParams] = {}
    for name, arm in tables.arms.items():
        for pool, shown, seed in _pools_of(name, arm):
            members.append((name, pool, seed))
            arms.setdefault(pool, shown)
    members.sort(key=lambda member: list(arms).index(member[1]))
    references = {name: _reference(arm, tables.reference_arm, members, arms) for name, arm in arms.items()}
    return Pools(arms, tuple(members), references)


def _pools_of(name: str, arm: ArmParams) -> Iterable[tuple[str, ArmParams, str]]:
    """Every arm that a row counts for: (name, its settings, training seed)."""
    if arm.replicate is None:
        own = tuple(origin for origin in arm.stands_for if origin.replicate is None)
        yield name, arm if own == arm.stands_for else arm.model_copy(update={"stands_for": own}), ""
    for origin in arm.origins:
        if origin.replicate is not None:
            swept = {path: value for path, value in origin.swept.items() if not is_seed(path)}
            shown = {"label": origin.replicate.label, "family": origin.family, "swept": swept}
            yield (
                origin.replicate.of,
                arm.model_copy(update=shown | {"replicate": None, "stands_for": ()}),
                origin.replicate.seed,
            )


def variants_of(family: str, arms: Mapping[str, ArmParams]) -> list[tuple[str, Origin]]:
    """The arms that are variants of a swept row, by name, with the values swept."""
    return [(name, origin) for name, arm in arms.items() for origin in arm.origins if origin.family == family]


def _reference(arm: ArmParams, wanted: str, members: list[tuple[str, str, str]], arms: Mapping[str, ArmParams]) -> str:
    """The arm named; of a swept row the variant that agrees in what both sweep, else the first."""
    if wanted in arms:
        return wanted
    for member, pool, _ in members:
        if member == wanted:
            return pool
    variants = variants_of(wanted, arms)
    if not variants:
        raise ValueError(f"evaluation.reference_arm: {wanted!r} is not a row of arms ({', '.join(arms)})")
    mine = arm.swept
    agreeing = (name for name, origin in variants if all(mine[k] == v for k, v in origin.swept.items() if k in mine))
    return next(agreeing, variants[0][0])
