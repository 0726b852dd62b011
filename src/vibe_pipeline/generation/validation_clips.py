"""Clips while an adapter trains: what its weights so far make of a few prompts, through the arms' own code."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from diffusers import WanTransformer3DModel

from vibe_pipeline.diffusion import lora
from vibe_pipeline.experiment.arms import ArmParams
from vibe_pipeline.experiment.generation import GenerationParams
from vibe_pipeline.experiment.model import ModelParams
from vibe_pipeline.generation.prompts import load_prompts
from vibe_pipeline.generation.render import arm_clips, native_clips
from vibe_pipeline.io.keys import file_sha256
from vibe_pipeline.io.manifests import AdapterManifest

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ValidationClips:
    """Called with the transformer in training and the steps done; can be sent to a worker process.

    A fresh copy of the base is rendered with, since the one in training carries stage 1 and the training attention;
    on a GPU the one in training waits in main memory meanwhile.

    Attributes:
        adapter: Name of the adapter in training.
        arm: How the clips are made.
        model: The base.
        generation: Prompts, seeds, native pass.
        count: How many of the prompts, from the top.
        root: Where native clips and validation clips are kept.
        publish: Gets the playable copies, each with the name of a folder to keep it in.
    """

    adapter: str
    arm: ArmParams
    model: ModelParams
    generation: GenerationParams
    count: int
    root: Path
    publish: Callable[[Path, str], object]

    def __post_init__(self) -> None:
        """Read the prompts before the training rather than in the midst of it."""
        there = len(load_prompts(self.generation))
        if there < self.count:
            log.warning(
                "adapters.%s.validation_clips asks for %d clips; generation has only %d (prompt, seed) pairs",
                *(self.adapter, self.count, there),
            )

    def __call__(self, transformer: WanTransformer3DModel, step: int) -> pd.DataFrame:
        """Save the weights so far, render, log.

        Returns:
            The clips, as `arm_clips` lists them.
        """
        name = f"{self.adapter}-step-{step:06d}"
        path = lora.save_adapter(transformer, self.adapter, self.root / "validation" / name)
        manifest = AdapterManifest(name=self.adapter, key=file_sha256(path), path=path)
        device = transformer.device
        # A few clips are not worth compiling, and beginning to would forget the graphs of the transformer in training.
        model = self.model.model_copy(update={"compile": False})
        transformer.to("cpu")
        try:
            prompts = load_prompts(self.generation).head(self.count)
            native = native_clips(prompts, model, self.generation, self.root)
            made = arm_clips(
                name=name,
                arm=self.arm,
                native=native,
                adapter=manifest,
                stage1=None,
                model=model,
                params=self.generation,
                root=self.root,
            )
        finally:
            transformer.to(device)
        for clip in made["preview_path"]:
            self.publish(Path(clip), f"validation/step-{step:06d}")
        return made
