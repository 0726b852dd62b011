"""All that is known of a VBench dimension, one entry each: words, place in the totals, needs, what it sees."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from vibe_pipeline.io.metric import Direction, Metric
from vibe_pipeline.vbench.weight_files import (
    DINO,
    DINO_CHECKPOINT,
    DINO_CODE,
    DINO_REPOSITORY,
    GRIT,
    HUB,
    RAFT_ARCHIVE,
    VICLIP,
    VIT_B,
    VIT_L,
    Archive,
    Weight,
)

COMMON_PACKAGES = ("vbench", "torch", "torchvision", "decord", "cv2", "tqdm")
FLOW_DIMENSIONS = ("motion_smoothness", "dynamic_degree")
HUB_FOLDER = "huggingface"  # under the cache folder, laid out as Hugging Face's own cache


@dataclass(frozen=True, kw_only=True)
class Dimension(Metric):
    """One of the 16, beside a metric's words. `name` is as VBench spells it, with underscores.

    Attributes:
        group: Which of the two totals it enters.
        limits: Raw scores that the totals map to 0 and 1.
        share: Its weight in the mean of its group.
        lowest: Of its raw scores: 0, or -1 of a cosine between an image and a text feature.
        sees: What the metric sees of a clip.
        weights: Files it wants under the cache folder.
        packages: Import names that it needs beside the ones every dimension needs.
        versions: Version limits of VBench's own pins that its code really depends on; where they are not met, it runs
            in the second environment.
        hub_model: A model it takes from a Hugging Face cache, if any.
        standard_prompts: It compares with labels of VBench's own prompts, so it cannot score other prompts.
        clip_scale: Factor from the per-clip figure in VBench's result file to the scale of its total.
        frames: Fewest that a clip needs: VBench fails on fewer, or calls them static (dynamic_degree).
    """

    direction: Direction = "higher"
    family: str = "vbench"
    group: Literal["quality", "semantic"]
    limits: tuple[float, float] = (0.0, 1.0)
    share: float = 1.0
    lowest: float = 0.0
    sees: str
    weights: tuple[Weight, ...] = ()
    packages: tuple[str, ...] = ()
    versions: tuple[str, ...] = ()
    hub_model: str = ""
    standard_prompts: bool = False
    clip_scale: float = 1.0
    frames: int = 1


def _detected(name: str, label: str, explanation: str) -> Dimension:
    """A dimension scored by GRiT's object detector on 16 frames."""
    return Dimension(
        name=name,
        label=label,
        explanation=explanation,
        group="semantic",
        sees="16 frames; a short side above 768 pixels is shrunk to 720",
        weights=GRIT,
        packages=("detectron2",),
        hub_model="bert-base-uncased",
        standard_prompts=True,
    )


# Needs and addresses as in vbench 0.1.5, limits and shares as in the leaderboard's scripts (see `totals`).
_ENTRIES = (
    Dimension(
        name="subject_consistency",
        label="Subject consistency",
        explanation="DINO features of the frames stay alike.",
        group="quality",
        limits=(0.1462, 1.0),
        sees="every frame, short side shrunk to 224 pixels (DINO)",
        weights=(
            Weight(
                f"{DINO_CODE}/hubconf.py",
                DINO_REPOSITORY,
                archive=Archive(f"{DINO_REPOSITORY}/archive/refs/heads/main.zip", DINO_CODE, drop_top=True),
            ),
            Weight(DINO_CHECKPOINT, f"{DINO}/dino_vitbase16_pretrain.pth"),
        ),
        frames=2,
    ),
    Dimension(
        name="background_consistency",
        label="Background consistency",
        explanation="CLIP features of the frames stay alike.",
        group="quality",
        limits=(0.2615, 1.0),
        sees="every frame, centre square at 224 pixels (CLIP)",
        weights=(VIT_B,),
        packages=("clip",),
        frames=2,
    ),
    Dimension(
        name="temporal_flickering",
        label="Temporal flickering",
        explanation="Frames differ little from one to the next.",
        group="quality",
        limits=(0.6293, 1.0),
        sees="every frame at full size; meant for static scenes only",
        frames=2,
    ),
    Dimension(
        name="motion_smoothness",
        label="Motion smoothness",
        explanation="An interpolation network can predict the frames in between.",
        group="quality",
        limits=(0.706, 0.9975),
        sees="every frame at full size (AMT)",
        weights=(Weight("amt_model/amt-s.pth", f"{HUB}/lalala125/AMT/resolve/main/amt-s.pth"),),
        packages=("omegaconf",),
        frames=3,
    ),
    Dimension(
        name="aesthetic_quality",
        label="Aesthetic quality",
        explanation="LAION's aesthetic predictor on frames shrunk to 224 pixels.",
        group="quality",
        sees="every frame, centre square at 224 pixels (CLIP)",
        weights=(
            VIT_L,
            Weight(
                "aesthetic_model/emb_reader/sa_0_4_vit_l_14_linear.pth",
                "https://github.com/LAION-AI/aesthetic-predictor/blob/main/sa_0_4_vit_l_14_linear.pth?raw=true",
            ),
        ),
        packages=("clip",),
    ),
    Dimension(
        name="imaging_quality",
        label="Imaging quality",
        explanation="MUSIQ on frames shrunk to 512 pixels.",
        group="quality",
        sees="every frame; a long side above 512 pixels is shrunk to 512 (MUSIQ)",
        weights=(
            Weight(
                "pyiqa_model/musiq_spaq_ckpt-358bb6af.pth",
                "https://github.com/chaofengc/IQA-PyTorch/releases/download/v0.1-weights/musiq_spaq_ckpt-358bb6af.pth",
            ),
        ),
        packages=("pyiqa",),
        clip_scale=0.01,
    ),
    Dimension(
        name="dynamic_degree",
        label="Dynamic degree",
        explanation="Share of clips with large motion.",
        group="quality",
        share=0.5,
        sees="about 8 frames a second at full size (RAFT)",
        weights=(
            Weight("raft_model/models/raft-things.pth", RAFT_ARCHIVE, archive=Archive(RAFT_ARCHIVE, "raft_model")),
        ),
        packages=("easydict",),
        frames=2,
    ),
    _detected("object_class", "Object class", "The object asked for is detected."),
    _detected("multiple_objects", "Multiple objects", "All objects asked for are detected in one frame."),
    Dimension(
        name="human_action",
        label="Human action",
        explanation="The action asked for is recognised.",
        group="semantic",
        sees="16 frames, short side 256, centre square of 224 pixels (UMT)",
        weights=(
            Weight(
                "umt_model/l16_ptk710_ftk710_ftk400_f16_res224.pth",
                f"{HUB}/OpenGVLab/VBench_Used_Models/resolve/main/l16_ptk710_ftk710_ftk400_f16_res224.pth",
            ),
        ),
        packages=("clip", "timm"),
        standard_prompts=True,
    ),
    _detected("color", "Colour", "The object has the colour asked for."),
    _detected("spatial_relationship", "Spatial relationship", "Objects stand where the prompt puts them."),
    Dimension(
        name="scene",
        label="Scene",
        explanation="A caption of the clip names the scene asked for.",
        group="semantic",
        limits=(0.0, 0.8222),
        sees="16 frames squeezed to 384 x 384 pixels (Tag2Text)",
        weights=(
            Weight(
                "caption_model/tag2text_swin_14m.pth",
                f"{HUB}/spaces/xinyu1205/recognize-anything/resolve/main/tag2text_swin_14m.pth",
            ),
        ),
        packages=("timm", "transformers"),
        versions=("transformers==4.33.2",),
        hub_model="bert-base-uncased",
        standard_prompts=True,
    ),
    Dimension(
        name="appearance_style",
        label="Appearance style",
        explanation="CLIP agreement with the style asked for.",
        group="semantic",
        limits=(0.0009, 0.2855),
        lowest=-1.0,
        sees="every frame, centre square at 224 pixels (CLIP)",
        weights=(VIT_B,),
        packages=("clip",),
        standard_prompts=True,
    ),
    Dimension(
        name="temporal_style",
        label="Temporal style",
        explanation="ViCLIP agreement with the camera motion asked for.",
        group="semantic",
        limits=(0.0, 0.364),
        lowest=-1.0,
        sees="8 frames, centre square at 224 pixels (ViCLIP)",
        weights=VICLIP,
        packages=("clip", "einops"),
    ),
    Dimension(
        name="overall_consistency",
        label="Overall consistency",
        explanation="ViCLIP agreement of clip and prompt.",
        group="semantic",
        limits=(0.0, 0.364),
        lowest=-1.0,
        sees="8 frames, centre square at 224 pixels (ViCLIP)",
        weights=VICLIP,
        packages=("clip", "einops"),
    ),
)
REGISTRY: Mapping[str, Dimension] = MappingProxyType({entry.name: entry for entry in _ENTRIES})
TOTALS = tuple(
    Metric(name=name, label=label, explanation=explanation, direction="higher", family="totals")
    for name, label, explanation in (
        ("vbench_quality", "Quality score", "VBench's weighted mean of its quality dimensions."),
        ("vbench_semantic", "Semantic score", "VBench's mean of its semantic dimensions."),
        ("vbench_total", "Total score", "VBench's (4 × quality + semantic) / 5."),
    )
)


def canonical_name(name: str) -> str:
    """The name with underscores.

    Raises:
        ValueError: It is not one of the 16 dimensions; the message lists them.
    """
    canonical = "_".join(name.strip().lower().split())
    if canonical not in REGISTRY:
        raise ValueError(f"unknown VBench dimension {name!r}; the 16 are: {', '.join(REGISTRY)}")
    return canonical


def dimension_of(name: str) -> Dimension:
    """The registry's entry.

    Raises:
        ValueError: It is not one of the 16 dimensions; the message lists them.
    """
    return REGISTRY[canonical_name(name)]
