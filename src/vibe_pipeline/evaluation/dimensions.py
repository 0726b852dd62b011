"""What each VBench dimension needs before it can be scored, decided from files on disk alone.

VBench fetches what it lacks in the middle of an evaluation, and on some dimensions while being imported.
So nothing of it is imported here: a dimension is declared ready only when every file is where it will look.
"""

import importlib.metadata
import importlib.util
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from packaging.requirements import Requirement

from vibe_pipeline.evaluation.aggregate import canonical_name

_HUB = "https://huggingface.co"
_CLIP = "https://openaipublic.azureedge.net/clip/models"
_DINO = "https://dl.fbaipublicfiles.com/dino/dino_vitbase16_pretrain"


@dataclass(frozen=True)
class Weight:
    """A file VBench wants: its place under the cache folder, and where VBench itself gets it."""

    path: str
    source: str


@dataclass(frozen=True)
class Dimension:
    """One of the 16.

    Attributes:
        name: As VBench spells it, with underscores.
        group: Which of the two totals it enters.
        sees: What the metric sees of a clip.
        weights: Files it wants under the cache folder.
        packages: Import names that it needs beside the ones every dimension needs.
        versions: Version limits of VBench's own pins that its code really depends on.
        hub_model: A model it takes from the Hugging Face cache, if any.
        standard_prompts: It compares with labels of VBench's own prompts, so it cannot score other prompts.
        clip_scale: Factor from the per-clip figure in VBench's result file to the scale of its total.
    """

    name: str
    group: Literal["quality", "semantic"]
    sees: str
    weights: tuple[Weight, ...] = ()
    packages: tuple[str, ...] = ()
    versions: tuple[str, ...] = ()
    hub_model: str = ""
    standard_prompts: bool = False
    clip_scale: float = 1.0


@dataclass(frozen=True)
class Ready:
    """The dimension can be scored."""

    dimension: str


@dataclass(frozen=True)
class Skipped:
    """The dimension cannot be scored; `reason` says why and what would change that."""

    dimension: str
    reason: str


COMMON_PACKAGES = ("vbench", "torch", "torchvision", "decord", "cv2", "tqdm")
DINO_CHECKPOINT = "dino_model/dino_vitbase16_pretrain.pth"
_VIT_B = Weight(
    "clip_model/ViT-B-32.pt",
    f"{_CLIP}/40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af/ViT-B-32.pt",
)
_VIT_L = Weight(
    "clip_model/ViT-L-14.pt",
    f"{_CLIP}/b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836/ViT-L-14.pt",
)
_VICLIP = (
    Weight(
        "ViCLIP/ViClip-InternVid-10M-FLT.pth",
        f"{_HUB}/OpenGVLab/VBench_Used_Models/resolve/main/ViClip-InternVid-10M-FLT.pth",
    ),
    Weight(
        "ViCLIP/bpe_simple_vocab_16e6.txt.gz",
        "https://raw.githubusercontent.com/openai/CLIP/main/clip/bpe_simple_vocab_16e6.txt.gz, or the copy inside "
        "the installed openai-clip package",
    ),
)
_GRIT = (
    Weight(
        "grit_model/grit_b_densecap_objectdet.pth",
        "https://datarelease.blob.core.windows.net/grit/models/grit_b_densecap_objectdet.pth",
    ),
)


def _detected(name: str) -> Dimension:
    """A dimension scored by GRiT's object detector on 16 frames."""
    return Dimension(
        name,
        "semantic",
        "16 frames; a short side above 768 pixels is shrunk to 720",
        _GRIT,
        packages=("detectron2",),
        hub_model="bert-base-uncased",
        standard_prompts=True,
    )


# Needs and addresses as in vbench 0.1.5.
_ENTRIES = (
    Dimension(
        "subject_consistency",
        "quality",
        "every frame, short side shrunk to 224 pixels (DINO)",
        (
            Weight(
                "dino_model/facebookresearch_dino_main/hubconf.py",
                "a clone of https://github.com/facebookresearch/dino",
            ),
            Weight(DINO_CHECKPOINT, f"{_DINO}/dino_vitbase16_pretrain.pth"),
        ),
    ),
    Dimension(
        "background_consistency", "quality", "every frame, centre square at 224 pixels (CLIP)", (_VIT_B,), ("clip",)
    ),
    Dimension("temporal_flickering", "quality", "every frame at full size; meant for static scenes only"),
    Dimension(
        "motion_smoothness",
        "quality",
        "every frame at full size (AMT)",
        (Weight("amt_model/amt-s.pth", f"{_HUB}/lalala125/AMT/resolve/main/amt-s.pth"),),
        ("omegaconf",),
    ),
    Dimension(
        "aesthetic_quality",
        "quality",
        "every frame, centre square at 224 pixels (CLIP)",
        (
            _VIT_L,
            Weight(
                "aesthetic_model/emb_reader/sa_0_4_vit_l_14_linear.pth",
                "https://github.com/LAION-AI/aesthetic-predictor/blob/main/sa_0_4_vit_l_14_linear.pth?raw=true",
            ),
        ),
        ("clip",),
    ),
    Dimension(
        "imaging_quality",
        "quality",
        "every frame; a long side above 512 pixels is shrunk to 512 (MUSIQ)",
        (
            Weight(
                "pyiqa_model/musiq_spaq_ckpt-358bb6af.pth",
                "https://github.com/chaofengc/IQA-PyTorch/releases/download/v0.1-weights/musiq_spaq_ckpt-358bb6af.pth",
            ),
        ),
        ("pyiqa",),
        clip_scale=0.01,
    ),
    Dimension(
        "dynamic_degree",
        "quality",
        "about 8 frames a second at full size (RAFT)",
        (
            Weight(
                "raft_model/models/raft-things.pth",
                "the archive https://dl.dropboxusercontent.com/s/4j4z58wuv8o0mfz/models.zip, unpacked in raft_model",
            ),
        ),
        ("easydict",),
    ),
    _detected("object_class"),
    _detected("multiple_objects"),
    Dimension(
        "human_action",
        "semantic",
        "16 frames, short side 256, centre square of 224 pixels (UMT)",
        (
            Weight(
                "umt_model/l16_ptk710_ftk710_ftk400_f16_res224.pth",
                f"{_HUB}/OpenGVLab/VBench_Used_Models/resolve/main/l16_ptk710_ftk710_ftk400_f16_res224.pth",
            ),
        ),
        ("clip", "timm"),
        ("numpy<2", "timm<=1.0.12"),
        standard_prompts=True,
    ),
    _detected("color"),
    _detected("spatial_relationship"),
    Dimension(
        "scene",
        "semantic",
        "16 frames squeezed to 384 x 384 pixels (Tag2Text)",
        (
            Weight(
                "caption_model/tag2text_swin_14m.pth",
                f"{_HUB}/spaces/xinyu1205/recognize-anything/resolve/main/tag2text_swin_14m.pth",
            ),
        ),
        ("timm", "transformers"),
        ("transformers==4.33.2",),
        hub_model="bert-base-uncased",
        standard_prompts=True,
    ),
    Dimension(
        "appearance_style",
        "semantic",
        "every frame, centre square at 224 pixels (CLIP)",
        (_VIT_B,),
        ("clip",),
        standard_prompts=True,
    ),
    Dimension(
        "temporal_style", "semantic", "8 frames, centre square at 224 pixels (ViCLIP)", _VICLIP, ("clip", "einops")
    ),
    Dimension(
        "overall_consistency", "semantic", "8 frames, centre square at 224 pixels (ViCLIP)", _VICLIP, ("clip", "einops")
    ),
)
REGISTRY: Mapping[str, Dimension] = MappingProxyType({entry.name: entry for entry in _ENTRIES})


def dimension_of(name: str) -> Dimension:
    """The registry's entry.

    Raises:
        ValueError: It is not one of the 16 dimensions; the message lists them.
    """
    return REGISTRY[canonical_name(name)]


def readiness(dimension: str, cache_dir: Path) -> Ready | Skipped:
    """Whether a dimension can be scored on clips of any prompts, from what is on disk; takes milliseconds.

    Args:
        dimension: One of the 16.
        cache_dir: VBench's folder of weights.

    Raises:
        ValueError: It is not one of the 16; the message lists them.
    """
    entry = dimension_of(dimension)
    reasons = [*_prompt_reasons(entry), *_package_reasons(entry), *_weight_reasons(entry, Path(cache_dir))]
    return Skipped(entry.name, "skipped, because " + "; and ".join(reasons)) if reasons else Ready(entry.name)


def _prompt_reasons(entry: Dimension) -> list[str]:
    if not entry.standard_prompts:
        return []
    return ["it compares with the labels of VBench's own prompts, which clips of other prompts do not have"]


def _package_reasons(entry: Dimension) -> list[str]:
    names = (*COMMON_PACKAGES, *entry.packages)
    reasons = [f"the package {name} is not installed" for name in names if importlib.util.find_spec(name) is None]
    for requirement in map(Requirement, entry.versions):
        try:
            found = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            continue  # already reported as not installed
        if not requirement.specifier.contains(found, prereleases=True):
            reasons.append(f"VBench's code for it needs {requirement}, and {requirement.name} {found} is installed")
    return reasons


def _weight_reasons(entry: Dimension, cache_dir: Path) -> list[str]:
    reasons = []
    for weight in entry.weights:
        file = cache_dir / weight.path
        if not file.is_file():
            reasons.append(f"{weight.path} is not at {cache_dir}; put it there from {weight.source}")
        elif file.stat().st_size == 0:
            reasons.append(f"{file} is empty; put {file.name} (from {weight.source}) there")
    if entry.hub_model and not (_hub_cache() / f"models--{entry.hub_model}").is_dir():
        reasons.append(f"the model {entry.hub_model} is not in the Hugging Face cache at {_hub_cache()}")
    return reasons


def _hub_cache() -> Path:
    """Where huggingface_hub looks, without importing it."""
    home = os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface"
    return Path(os.environ.get("HF_HUB_CACHE") or Path(home) / "hub")
