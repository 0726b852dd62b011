"""The parameters, as types: every field with its unit, range and default.

Kedro validates them once, from the nodes' type hints, before anything runs; a wrong value is refused with
the name of its field. Nothing in the code reads a parameter that is not declared here.
"""

from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    PositiveFloat,
    PositiveInt,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    field_serializer,
    field_validator,
    model_validator,
)

Fraction = Annotated[float, Field(ge=0, le=1)]
NonNegative = Annotated[float, Field(ge=0)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_]*$", description="lower case, digits and underscores")]


class Params(BaseModel):
    """Base of all parameter groups: unknown fields are errors, values are immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _yes_is_no_number(cls, value: Any, info: ValidationInfo) -> Any:
        """YAML reads yes and no as truth values, which pydantic would take for 1 and 0."""
        kind = cls.model_fields[info.field_name].annotation if info.field_name else bool
        if isinstance(value, bool) and bool not in (kind, *get_args(kind)):
            raise ValueError(f"takes no truth value, not {value}")
        return value


class ClipSize(Params):
    """A video's shape in pixels and frames."""

    height: PositiveInt
    width: PositiveInt
    frames: PositiveInt = 1
    fps: PositiveFloat = 8.0

    @field_validator("frames")
    @classmethod
    def _frames_fit_the_vae(cls, frames: int) -> int:
        if frames % 4 != 1:
            raise ValueError(f"Wan's VAE takes 4k + 1 frames: {frames} is not; nearest {frames // 4 * 4 + 1}")
        return frames


class ModelParams(Params):
    """Which base model, and its native scale."""

    path: str = Field(description="a folder in diffusers layout, or a hub id")
    native: ClipSize
    target: ClipSize
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    text_length: PositiveInt = Field(512, description="tokens a prompt is padded to; as the base was trained")
    flow_shift: PositiveFloat = Field(5.0, description="s of sigma' = s sigma / (1 + (s - 1) sigma), at inference")
    threads: PositiveInt | None = Field(None, description="CPU threads per process; None leaves torch's choice")
    tile: PositiveInt | None = Field(
        None, description="VAE tile in pixels, a multiple of the VAE's spatial factor; None decodes whole frames"
    )
    vae_dtype: Literal["float32", "bfloat16"] = "float32"
    offload: bool = Field(False, description="keep only the part at work (transformer or VAE) on the device")

    @model_validator(mode="after")
    def _target_is_native_length(self) -> Self:
        if self.target.frames != self.native.frames:
            raise ValueError(f"target.frames {self.target.frames} differs from native.frames {self.native.frames}")
        return self


class MiniatureParams(Params):
    """The procedural world's stand-in for a video model, and how its base is trained (by hand, once)."""

    size: PositiveInt = Field(64, description="native side, pixels")
    frames: PositiveInt = 9
    vae_steps: PositiveInt = 1150
    clips: PositiveInt = Field(8000, description="captioned native clips the transformer is trained on")
    base_steps: PositiveInt = 2600
    processes: PositiveInt = Field(2, description="single-thread training processes")
    seed: int = 0


class DataParams(Params):
    """Training images: where they are, and what is made of them."""

    source: Literal["miniature", "folder", "huggingface"] = "folder"
    path: Path = Field(
        description="the folder of images (the miniature renders its own into it); huggingface: a dataset's hub id or "
        "local folder"
    )
    split: str = Field("train", description="huggingface: which split")
    subset: str | None = Field(None, description="huggingface: which configuration, where a dataset has several")
    image_column: str = Field("image", description="huggingface: the column of images")
    text_column: str = Field("text", description="huggingface: the column of captions")
    count: PositiveInt | None = Field(None, description="how many images to render or to use at most")
    low: ClipSize = Field(description="stage-1 image size")
    high: ClipSize = Field(description="stage-2 image size")
    buckets: Literal["single", "aspect"] = Field(
        "aspect", description="single: every image is cut to `high`; aspect: to the nearest aspect of about its area"
    )
    max_aspect: Annotated[float, Field(ge=1)] = Field(
        2.0, description="long side over short side of the longest bucket; longer images are cut to it"
    )
    bucket_tokens: PositiveInt = Field(
        2, description="sides of high buckets are multiples of this many tokens: of `attention.pool`, for gclf"
    )
    camera_blur: NonNegative = Field(
        0.0, description="Gaussian sigma, native pixels: how much softer the base's clips are than a shrunk image"
    )
    min_usable_share: Fraction = Field(
        0.5, description="fewer usable images than this share of all that was found, refused ones too, stop the run"
    )
    max_caption_words: PositiveInt = 256
    check_workers: PositiveInt | None = Field(
        None, description="processes that decode images in the check; None: model.threads, or else one a core"
    )
    encode_batch: PositiveInt = Field(1, description="images encoded together")
    held_out: PositiveInt = Field(
        16, description="images kept from training, for the held-out loss and the check; within held_out_share"
    )
    held_out_share: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.25, description="at most this share of the usable images is held out, and always one of them"
    )
    seed: int = 0

    @model_validator(mode="after")
    def _low_is_within_high(self) -> Self:
        low, high = self.low, self.high
        if low.height > high.height or low.width > high.width:
            raise ValueError(
                f"low {low.height}x{low.width} does not lie within high {high.height}x{high.width}: the low-resolution "
                "images are made by shrinking the others"
            )
        return self


class LoraParams(Params):
    """Shape of a low-rank update."""

    rank: PositiveInt = 32
    alpha: PositiveFloat = 32.0
    targets: Annotated[tuple[str, ...], Field(min_length=1)] = (
        "to_q",
        "to_k",
        "to_v",
        "to_out.0",
        "ffn.net.0.proj",
        "ffn.net.2",
    )


class OptimiserParams(Params):
    """AdamW and its schedule."""

    kind: Literal["adamw", "adamw_8bit"] = Field(
        "adamw", description="adamw_8bit holds its state in a quarter of the memory, and needs bitsandbytes"
    )
    learning_rate: PositiveFloat = 1e-4
    weight_decay: NonNegative = 0.01
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    schedule: Literal["constant", "cosine"] = "constant"
    clip_norm: PositiveFloat | None = 1.0


class AttentionParams(Params):
    """Self-attention of the transformer; sizes in tokens."""

    kind: Literal["full", "window", "gclf"] = "full"
    half_window: tuple[PositiveInt, PositiveInt] | None = Field(
        None, description="(d_h, d_w); None: half the native grid"
    )
    pool: Annotated[int, Field(ge=2)] = Field(2, description="side of the pooled tiles, for gclf")
    scale: PositiveFloat | Literal["freeswim"] | None = Field(
        None, description="attention scale; None: 1 / sqrt(head dim); freeswim: sqrt(log_N(2 N) / head dim)"
    )


class DegradationParams(Params):
    """How stage 2 makes the degraded latent that it learns to restore.

    `latent` is the paper's: shrink and enlarge the latent, by `factor` and `mode`. `pixel` is our own variation:
    shrink the image to native size, enlarge it, encode: what inference feeds the model; it has neither of the two.
    """

    kind: Literal["latent", "pixel"] = "latent"
    factor: Annotated[float, Field(gt=0, lt=1)] = 0.5
    mode: Literal["trilinear", "nearest"] = "trilinear"


class TrainParams(Params):
    """What one adapter's training takes, whichever stage."""

    lora: LoraParams = LoraParams()
    optimiser: OptimiserParams = OptimiserParams()
    steps: PositiveInt = 3000
    batch_size: PositiveInt = Field(1, description="images per optimiser step, over all processes")
    micro_batch: PositiveInt | None = Field(
        None, description="images per forward and process, gradients accumulated; None: all of its share at once"
    )
    processes: PositiveInt = Field(1, description="training processes on this machine; with CUDA one GPU each")
    sigma_shift: PositiveFloat = Field(5.0, description="s of the training sigmas")
    sigma_sampling: Literal["uniform_shifted", "logit_normal"] = Field(
        "uniform_shifted", description="the paper's, or the sigmoid of a normal draw; both are shifted by s"
    )
    logit_mean: float = Field(0.0, description="of the normal draw, for logit_normal")
    logit_std: PositiveFloat = Field(1.0, description="likewise")
    loss_weighting: Literal["bell", "uniform", "cosmap"] = Field(
        "bell", description="w(sigma): the paper's bell, 1, or the cosine map of Stable Diffusion 3"
    )
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        None, description="average the adapter over steps with this decay; the average is what is kept"
    )
    seed: int = 0
    checkpoint_every: PositiveInt = Field(100, description="steps between checkpoints")
    log_every: PositiveInt = Field(10, description="steps between log lines")
    validate_every: PositiveInt | None = Field(None, description="steps between held-out losses; None: at the end only")
    autocast: bool = Field(True, description="bfloat16 activations; the adapter itself stays in 32 bit")
    gradient_checkpointing: bool = Field(
        False, description="recompute blocks in the backward pass: less memory, slower"
    )
    compile: bool = Field(False, description="torch.compile of the repeated blocks")

    @model_validator(mode="after")
    def _every_process_has_images(self) -> Self:
        if self.processes > self.batch_size:
            raise ValueError(f"batch_size {self.batch_size} leaves some of {self.processes} processes without an image")
        return self


class Stage1Params(TrainParams):
    """One row of `stage1`: velocity loss on low-resolution images with full attention."""


class ObjectiveWeights(Params):
    """Weights of the stage-2 losses: velocity, hfato, degraded-velocity ("without x0 loss")."""

    velocity: NonNegative = 0.0
    hfato: NonNegative = 0.0
    degraded_velocity: NonNegative = 0.0

    @model_validator(mode="after")
    def _something_to_learn(self) -> Self:
        if not any((self.velocity, self.hfato, self.degraded_velocity)):
            raise ValueError("all loss weights are 0: give velocity, hfato or degraded_velocity a positive weight")
        return self


class Replicate(Params):
    """What an arm is one of several trainings of: variants that differ in nothing but training seeds."""

    of: Name = Field(description="the arm they are pooled into")
    label: str
    seed: str = Field(description="the training seed, by which replicates of two arms are paired")


class Origin(Params):
    """Which variant of which swept row. Only unfolding sets these; no dump and no content key holds them."""

    family: Name | None = Field(None, exclude=True, description="the name of the row with lists, as written")
    swept: dict[str, JsonValue] = Field(
        default_factory=dict, exclude=True, description="dotted field to value; `adapter.…` is the arm's adapter's"
    )
    replicate: Replicate | None = Field(None, exclude=True, description="of an arm with swept training seeds")

    def stated(self) -> dict[str, JsonValue]:
        """What is set, as plain values: what a dump leaves out."""
        found: dict[str, JsonValue] = {"family": self.family, "swept": self.swept}
        found["replicate"] = self.replicate.model_dump() if self.replicate else None
        return {name: value for name, value in found.items() if value}


class Unfolded(Origin):
    """Where a row came from, if a sweep made it or another row collapsed into it."""

    stands_for: tuple[Origin, ...] = Field((), exclude=True, description="variants of other rows, of the same content")

    def stated(self) -> dict[str, JsonValue]:
        """As of its origin, with the variants that it stands for."""
        others: list[JsonValue] = [origin.stated() for origin in self.stands_for]
        return super().stated() | ({"stands_for": others} if others else {})

    @property
    def origins(self) -> tuple[Origin, ...]:
        """Every variant that this row is."""
        return (*((self,) if self.family else ()), *self.stands_for)


class AdapterParams(Unfolded, TrainParams):
    """One row of `adapters`: a stage-2 adapter."""

    label: str = Field(description="what the report calls it")
    start: Name = Field("stage1", description="a row of `stage1`, fused and frozen (Relay), or `base` (naive tuning)")
    objective: ObjectiveWeights = ObjectiveWeights(hfato=1.0)
    degradation: DegradationParams = DegradationParams()
    attention: AttentionParams = AttentionParams(kind="gclf")
    validation_clips: Annotated[int, Field(ge=0)] = Field(
        0, description="prompts rendered every validate_every steps, as the first arm of this adapter does"
    )

    @model_validator(mode="after")
    def _validation_clips_have_their_steps(self) -> Self:
        if self.validation_clips and self.validate_every is None:
            raise ValueError("validation_clips are made every validate_every steps: give validate_every a number")
        return self

    @property
    def degrades(self) -> bool:
        """Whether any of its losses takes a degraded latent."""
        return bool(self.objective.hfato or self.objective.degraded_velocity)


class ExtraAdapter(Params):
    """A LoRA beside the arm's own: few-step distillation, a style."""

    path: Path = Field(description="a .safetensors file in diffusers format; others: kedro vibe import-adapter")
    weight: float = 1.0


Method = Literal["refine", "freeswim", "direct", "upsample", "truth", "external"]
SECOND_PASSES = ("refine", "freeswim")
RUNS_TRANSFORMER = (*SECOND_PASSES, "direct")


class ArmParams(Unfolded):
    """One row of `arms`: what is generated and scored."""

    label: str = Field(description="what the report calls it")
    method: Method = "refine"
    adapter: Name | None = Field(None, description="a row of `adapters`, or none")
    keep_stage1: bool = Field(False, description="keep the image modality at inference (an ablation)")
    extra_adapters: tuple[ExtraAdapter, ...] = ()
    attention: AttentionParams = AttentionParams()
    scheduler: Literal["euler", "unipc"] = "euler"
    flow_shift: PositiveFloat | None = Field(None, description="of this arm's schedule; None: the model's")
    strength: Annotated[float, Field(gt=0, le=1)] = Field(0.7, description="before the flow shift")
    steps: PositiveInt = Field(50, description="denoising steps of the second pass")
    steps_are: Literal["all", "share"] = Field("all", description="all steps from sigma_start, or strength x steps")
    guidance_scale: Annotated[float, Field(ge=1)] = 5.0
    refresh_every: PositiveInt | None = Field(
        None, description="freeswim's cached form: steps between full-attention passes; None: both paths, always"
    )
    detail_transfer: Annotated[float, Field(gt=0, le=1)] | None = Field(
        None, description="share of the second pass's change that is added to the enlarged clip; None: its own pixels"
    )
    path: Path | None = Field(None, description="external: the folder of another system's clips")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.keep_stage1 and self.adapter is None:
            raise ValueError("keep_stage1 needs an adapter that was trained on stage 1")
        if (self.adapter or self.extra_adapters) and self.method not in RUNS_TRANSFORMER:
            raise ValueError(f"method {self.method!r} runs no transformer: an adapter would do nothing")
        if self.method == "freeswim" and self.attention.kind != "window":
            raise ValueError(f"freeswim is window attention beside full: attention.kind is {self.attention.kind!r}")
        if self.refresh_every is not None and self.method != "freeswim":
            raise ValueError(f"refresh_every belongs to freeswim, not to method {self.method!r}")
        if self.detail_transfer is not None and self.method not in SECOND_PASSES:
            raise ValueError(f"detail_transfer adds what a second pass changed; method {self.method!r} is none")
        if self.steps_are == "share" and int(self.start * self.steps) < 1:
            raise ValueError(
                f"steps_are share: strength {self.strength} of {self.steps} steps leaves none: raise either"
            )
        if (self.path is not None) != (self.method == "external"):
            raise ValueError("method external needs `path`, a folder of clips; no other method takes one")
        return self

    @property
    def start(self) -> float:
        """The strength that counts: only a second pass starts from a clip."""
        return self.strength if self.method in SECOND_PASSES else 1.0


class GenerationParams(Params):
    """Prompts, seeds and the native pass."""

    prompts: Literal["miniature", "vbench_standard", "vbench_subset", "vbench_custom"] | Path = Field(
        description="the held-out captions, VBench's own list, or a file: .txt (one a line), .csv or .jsonl"
    )
    skip: Annotated[int, Field(ge=0)] = Field(0, description="prompts to pass over, from the top (not VBench's)")
    count: PositiveInt | None = Field(None, description="how many prompts after those; None: all, 128 of vbench_subset")
    prompt_dimensions: tuple[str, ...] = Field((), description="VBench prompts of these dimensions only")
    subset_seed: int = Field(0, description="which choice of VBench's prompts, where `count` makes one")
    seeds: Annotated[tuple[int, ...], Field(min_length=1)] = (0,)
    shard: str | None = Field(None, pattern=r"^[1-9]\d*/[1-9]\d*$", description="i/n: every n-th (prompt, seed) only")
    negative_prompt: str = ""
    native_steps: PositiveInt = 50
    native_guidance_scale: Annotated[float, Field(ge=1)] = 5.0
    native_scheduler: Literal["euler", "unipc"] = "euler"
    native_source: Literal["base", "truth"] = Field("base", description="truth: true renders, for paired measurements")
    batch_size: PositiveInt = Field(1, description="clips denoised together")
    stop_after_preview: bool = Field(False, description="make native clips and their contact sheet, then stop")

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


class EvaluationParams(Params):
    """What is scored, and how the figures are summarised."""

    vbench_dimensions: Annotated[tuple[str, ...], Field(min_length=1)]
    vbench_cache: Path = Field(description="folder of VBench's weights; `kedro vibe fetch-weights` fills it")
    vbench_env: Path = Field(
        Path("data/06_models/vbench_env"),
        description="second environment with VBench's own pins: kedro vibe vbench-env",
    )
    flow_side: PositiveInt | None = Field(
        None, description="longest side in pixels that RAFT and AMT see, in every arm; None: clips as they are"
    )
    workers: PositiveInt = Field(1, description="processes that score clips side by side, each with its own models")
    prompt_rewriting: str = Field("none", description="what rewrote the prompts before generation; stated with scores")
    fine_band: tuple[PositiveFloat, PositiveFloat] = Field(
        description="cycles per frame height between which detail is measured: above what native clips hold"
    )
    reference_arm: Name = Field(description="the arm differences are taken to")
    bootstrap_samples: PositiveInt = 2000
    confidence: Annotated[float, Field(gt=0, lt=1)] = 0.95
    seed: int = 0

    @field_validator("fine_band")
    @classmethod
    def _band_rises(cls, band: tuple[float, float]) -> tuple[float, float]:
        if band[0] >= band[1]:
            raise ValueError(f"the band must rise from a lower to a higher frequency, got {list(band)}")
        return band


class RunParams(Params):
    """One `kedro run` as a whole."""

    hours: PositiveFloat | None = Field(None, description="stop cleanly after this long, everything resumable")
    rehearse: bool = Field(False, description="first try every row in small, and start nothing if one fails")
    wait: bool = Field(False, description="queue behind another run in this project instead of refusing")


class TrackingParams(Params):
    """MLflow: where runs are kept. A remote server is one line: its address as `uri`."""

    uri: str = "sqlite:///mlflow.db"
    experiment: str = "vibe_pipeline"
    clips_per_arm: Annotated[int, Field(ge=0)] = 2
    system_metrics: bool = Field(True, description="processor, memory, disk, network and GPU of the machine, over time")


class Tables(Params):
    """The tables that the graph is built from, checked against each other."""

    stage1: dict[Name, Stage1Params]
    adapters: dict[Name, AdapterParams]
    arms: dict[Name, ArmParams]
    reference_arm: Name
    stop_after_preview: bool = False

    @model_validator(mode="after")
    def _rows_exist(self) -> Self:
        if "base" in self.stage1:
            raise ValueError("stage1.base: `base` means the original base in adapters.*.start; choose another name")
        if both := sorted(set(self.stage1) & set(self.adapters)):
            raise ValueError(f"adapters.{both[0]}: stage1 has a row of that name too, and both would be kept under it")
        for name, row in self.adapters.items():
            if row.start != "base" and row.start not in self.stage1:
                raise ValueError(f"adapters.{name}.start: {row.start!r} is no row of stage1 ({', '.join(self.stage1)})")
        for name, arm in self.arms.items():
            if arm.adapter is not None and arm.adapter not in self.adapters:
                known = ", ".join(self.adapters)
                raise ValueError(f"arms.{name}.adapter: {arm.adapter!r} is no row of adapters ({known})")
            if arm.keep_stage1 and self.adapters[arm.adapter].start == "base":
                raise ValueError(f"arms.{name}.keep_stage1: adapter {arm.adapter!r} starts from the base, not stage 1")
        if self.reference_arm not in self.references:
            known = ", ".join(self.arms)
            raise ValueError(f"evaluation.reference_arm: {self.reference_arm!r} is no row of arms ({known})")
        return self

    def arm_of(self, adapter: str) -> str:
        """The first arm that uses an adapter, without stage 1: how its validation clips are made.

        Raises:
            ValueError: No arm does.
        """
        for name, arm in self.arms.items():
            if arm.adapter == adapter and not arm.keep_stage1:
                return name
        raise ValueError(f"adapters.{adapter}.validation_clips: no arm uses this adapter, so how they are made is open")

    @field_serializer("adapters", "arms", mode="wrap")
    def _with_origins(self, rows: dict[str, Unfolded], dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """The tables as a whole say where rows came from; a row of its own does not, as that changes no result."""
        return {name: dumped | rows[name].stated() for name, dumped in dump(rows).items()}

    @property
    def references(self) -> set[str]:
        """What may be named as reference: an arm, the arm that replicates are pooled into, a swept row as written."""
        origins = [origin for arm in self.arms.values() for origin in arm.origins]
        pooled = {origin.replicate.of for origin in origins if origin.replicate}
        return set(self.arms) | pooled | {origin.family for origin in origins}


class ReportParams(Params):
    """The page."""

    title: str = "ViBe ablation report"
    clips_shown: PositiveInt = 4
    claims: Path = Field(
        Path("conf/base/claims.yml"), description="what is put to the test; by default the environment's own claims.yml"
    )
    published: Path = Field(
        Path("conf/base/published.yml"),
        description="the paper's rows, shown beside ours; by default the environment's own published.yml",
    )
