"""What each VBench dimension needs (weights and their addresses, packages, versions), and what it sees of a clip."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from vibe_pipeline.vbench.totals import canonical_name

_HUB = "https://huggingface.co"
_CLIP = "https://openaipublic.azureedge.net/clip/models"
_DINO = "https://dl.fbaipublicfiles.com/dino/dino_vitbase16_pretrain"


@dataclass(frozen=True)
class Archive:
    """A zip file that a weight comes in: its address, the folder it is unpacked to, and whether its own top folder
    is dropped."""

    url: str
    folder: str
    drop_top: bool = False


@dataclass(frozen=True)
class Weight:
    """A file VBench wants.

    Attributes:
        path: Its place under the cache folder.
        source: Where VBench itself gets it.
        sha256: Its hash, if the package that loads it states one.
        archive: What it is unpacked from, if it is no file by itself.
        shipped: "package:file" of an installed package that holds the same file.
    """

    path: str
    source: str
    sha256: str = ""
    archive: Archive | None = None
    shipped: str = ""


@dataclass(frozen=True)
class Dimension:
    """One of the 16.

    Attributes:
        name: As VBench spells it, with underscores.
        group: Which of the two totals it enters.
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

    name: str
    group: Literal["quality", "semantic"]
    sees: str
    weights: tuple[Weight, ...] = ()
    packages: tuple[str, ...] = ()
    versions: tuple[str, ...] = ()
    hub_model: str = ""
    standard_prompts: bool = False
    clip_scale: float = 1.0
    frames: int = 1


COMMON_PACKAGES = ("vbench", "torch", "torchvision", "decord", "cv2", "tqdm")
FLOW_DIMENSIONS = ("motion_smoothness", "dynamic_degree")
DINO_CHECKPOINT = "dino_model/dino_vitbase16_pretrain.pth"
HUB_FOLDER = "huggingface"  # under the cache folder, laid out as Hugging Face's own cache


def _clip(name: str, sha256: str) -> Weight:
    """A CLIP model; openai-clip itself takes the hash from the address."""
    return Weight(f"clip_model/{name}.pt", f"{_CLIP}/{sha256}/{name}.pt", sha256)


_VIT_B = _clip("ViT-B-32", "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af")
_VIT_L = _clip("ViT-L-14", "b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836")
_VICLIP = (
    Weight(
        "ViCLIP/ViClip-InternVid-10M-FLT.pth",
        f"{_HUB}/OpenGVLab/VBench_Used_Models/resolve/main/ViClip-InternVid-10M-FLT.pth",
    ),
    Weight(
        "ViCLIP/bpe_simple_vocab_16e6.txt.gz",
        "https://raw.githubusercontent.com/openai/CLIP/main/clip/bpe_simple_vocab_16e6.txt.gz",
        shipped="clip:bpe_simple_vocab_16e6.txt.gz",
    ),
)
_GRIT = (
    Weight(
        "grit_model/grit_b_densecap_objectdet.pth",
        "https://datarelease.blob.core.windows.net/grit/models/grit_b_densecap_objectdet.pth",
    ),
)
_DINO_CODE = "dino_model/facebookresearch_dino_main"
_DINO_REPOSITORY = "https://github.com/facebookresearch/dino"
_RAFT = "https://dl.dropboxusercontent.com/s/4j4z58wuv8o0mfz/models.zip"


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
                f"{_DINO_CODE}/hubconf.py",
                _DINO_REPOSITORY,
                archive=Archive(f"{_DINO_REPOSITORY}/archive/refs/heads/main.zip", _DINO_CODE, drop_top=True),
            ),
            Weight(DINO_CHECKPOINT, f"{_DINO}/dino_vitbase16_pretrain.pth"),
        ),
        frames=2,
    ),
    Dimension(
        "background_consistency",
        "quality",
        "every frame, centre square at 224 pixels (CLIP)",
        (_VIT_B,),
        ("clip",),
        frames=2,
    ),
    Dimension("temporal_flickering", "quality", "every frame at full size; meant for static scenes only", frames=2),
    Dimension(
        "motion_smoothness",
        "quality",
        "every frame at full size (AMT)",
        (Weight("amt_model/amt-s.pth", f"{_HUB}/lalala125/AMT/resolve/main/amt-s.pth"),),
        ("omegaconf",),
        frames=3,
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
        (Weight("raft_model/models/raft-things.pth", _RAFT, archive=Archive(_RAFT, "raft_model")),),
        ("easydict",),
        frames=2,
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
