"""The data_processing pipeline."""

from kedro.pipeline import Node, Pipeline

from vibe_pipeline.pipelines.data_processing import nodes
from vibe_pipeline.pipelines.rows import resources


def create_pipeline() -> Pipeline:
    """Find, check, encode."""
    return Pipeline(
        [
            Node(
                nodes.find_training_images,
                ["params:data", "params:folders"],
                "training_images",
                name="find_training_images",
            ),
            Node(
                nodes.check_training_images,
                ["training_images", "params:data", "params:model"],
                ["usable_images", "image_quarantine"],
                name="check_training_images",
                tags=resources(cpus=4),
            ),
            Node(
                nodes.cache_latents,
                ["usable_images", "params:model", "params:data", "params:folders"],
                "latent_cache",
                name="cache_latents",
                tags=resources(gpus=1),
            ),
            Node(
                nodes.check_degradations,
                ["latent_cache", "params:adapters"],
                "degradation_checks",
                name="check_degradations",
            ),
        ],
        tags="data_processing",
    )
