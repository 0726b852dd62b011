"""`generation`: prompts, seeds and the native pass."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import (
    Field,
    PositiveInt,
    field_validator,
    model_validator,
)

from vibe_pipeline.experiment.groups import Params
from vibe_pipeline.experiment.sequential import SequentialParams


class GenerationParams(Params):
    """Prompts, seeds and the native pass."""

    prompts: Literal["miniature", "vbench_standard", "vbench_subset", "vbench_custom", "4k_vbench"] | Path = Field(
        description="the held-out captions, VBench's own list, that of `prompts_4k_vbench`, or a file: .txt (one a "
        "line), .csv or .jsonl"
    )
    prompts_4k_vbench: Path | None = Field(
        None, description="4K-VBench's list of 120 prompts, as T3-Video publishes it; only prompts: 4k_vbench reads it"
    )
    skip: Annotated[int, Field(ge=0)] = Field(0, description="prompts to pass over, from the top (not VBench's)")
    count: PositiveInt | None = Field(None, description="how many prompts after those; None: all, 128 of vbench_subset")
    sequential: SequentialParams | None = Field(
        None, description="looks at a growing `count`, with verdicts corrected for them; `kedro vibe grow` makes them"
    )
    prompt_dimensions: tuple[str, ...] = Field((), description="VBench prompts of these dimensions only")
    subset_seed: int = Field(
        0, description="any whole number: which choice of VBench's prompts, where `count` makes one"
    )
    seeds: Annotated[tuple[int, ...], Field(min_length=1)] = Field(
        (0,), description="any whole numbers, one clip of each prompt for every one; the same in every arm"
    )
    shard: str | None = Field(None, pattern=r"^[1-9]\d*/[1-9]\d*$", description="i/n: every n-th (prompt, seed) only")
    negative_prompt: str = Field("", description="of guidance, in both passes; the paper's is not known")
    native_steps: PositiveInt = Field(50, description="denoising steps of the native pass [C]")
    native_guidance_scale: Annotated[float, Field(ge=1)] = Field(
        5.0, description="classifier-free guidance of the native pass [C]; 1: none, and half the work"
    )
    native_guidance_scale_2: Annotated[float, Field(ge=1)] | None = Field(
        None, description="the same of the low-noise expert, of a base of two; None: native_guidance_scale"
    )
    native_scheduler: Literal["euler", "unipc"] = Field("euler", description="solver of the native pass")
    native_source: Literal["base", "truth"] = Field("base", description="truth: true renders, for paired measurements")
    batch_size: PositiveInt = Field(1, description="clips denoised together")
    stop_after_preview: bool = Field(False, description="make native clips and their contact sheet, then stop")

    @model_validator(mode="after")
    def _list_is_named(self) -> Self:
        if self.prompts == "4k_vbench" and self.prompts_4k_vbench is None:
            raise ValueError(
                "prompts 4k_vbench needs prompts_4k_vbench, the file 4K-VBench/4K-Vbench.json of zhangzjn/T3-Video"
            )
        return self

    @field_validator("seeds")
    @classmethod
    def _seeds_differ(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(seeds)) < len(seeds):
            raise ValueError(f"the same seed stands twice in {list(seeds)}; clips are told apart by prompt and seed")
        return seeds

    @field_validator("shard")
    @classmethod
    def _shard_is_one_of_them(cls, shard: str | None) -> str | None:
        if shard is not None and int(shard.split("/")[0]) > int(shard.split("/")[1]):
            raise ValueError(f"shard {shard}: the first number counts from 1 to the second")
        return shard
