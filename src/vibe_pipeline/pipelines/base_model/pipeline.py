"""The base_model pipeline: by hand, `kedro run --pipelines=base_model`."""

from kedro.pipeline import Node, Pipeline

from vibe_pipeline.pipelines.base_model import nodes


def create_pipeline() -> Pipeline:
    """Train the miniature's own base, and its single-image network."""
    return Pipeline(
        [
            Node(
                nodes.train_base_model,
                ["params:miniature", "params:model", "params:folders"],
                "base_model",
                name="train_base_model",
            ),
            Node(
                nodes.train_pixel_network,
                ["params:miniature", "params:model", "params:folders"],
                "pixel_network",
                name="train_pixel_network",
            ),
        ],
        tags="base_model",
    )
