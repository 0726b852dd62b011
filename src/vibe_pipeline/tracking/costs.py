"""What a `kedro run` cost, gathered on its parent run when it ends."""

from collections.abc import Mapping, Sequence

from mlflow import MlflowClient
from mlflow.entities import Run

from vibe_pipeline.tracking.runs import CLIP, NODE, ROW, TRAINING


def cost_metrics(
    client: MlflowClient, run_id: str, children: Sequence[Run], stages: Mapping[str, str]
) -> dict[str, float]:
    """Wall time per stage, training seconds per adapter, seconds per clip per arm.

    Args:
        client: Of the store.
        run_id: The parent; `time/node/NODE` of every node that ended are on it.
        children: Its adapters and arms.
        stages: The pipeline of every node. Nodes run side by side: a stage takes the time
            during which any of its nodes runs.

    Returns:
        Metrics in seconds, by name.
    """
    spans: dict[str, list[tuple[float, float]]] = {}
    for metric in client.get_run(run_id).data._metric_objs:
        stage = stages.get(metric.key.removeprefix(NODE))
        if metric.key.startswith(NODE) and stage is not None:
            end = metric.timestamp / 1000
            spans.setdefault(stage, []).append((end - metric.value, end))
    found = {f"time/stage/{stage}": _covered(times) for stage, times in spans.items()}
    for child in children:
        for name, short in ((TRAINING, "training"), (CLIP, "clip")):
            if name in child.data.metrics:
                found[f"time/{short}/{child.data.tags[ROW]}"] = child.data.metrics[name]
    return found


def _covered(spans: Sequence[tuple[float, float]]) -> float:
    """Length of the union of (begin, end)."""
    total, reached = 0.0, float("-inf")
    for begin, end in sorted(spans):
        total += max(0.0, end - max(begin, reached))
        reached = max(reached, end)
    return total
