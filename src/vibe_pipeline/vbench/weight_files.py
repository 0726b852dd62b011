"""Files that VBench's dimensions want: their places under the cache folder and VBench's own addresses of them."""

from dataclasses import dataclass

HUB = "https://huggingface.co"
_CLIP = "https://openaipublic.azureedge.net/clip/models"
DINO = "https://dl.fbaipublicfiles.com/dino/dino_vitbase16_pretrain"


DINO_CHECKPOINT = "dino_model/dino_vitbase16_pretrain.pth"


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
        sha256: Its hash, or the start of it, if the package that loads it states one (8 digits in a name).
        archive: What it is unpacked from, if it is not a file by itself.
        shipped: "package:file" of an installed package that holds the same file.
    """

    path: str
    source: str
    sha256: str = ""
    archive: Archive | None = None
    shipped: str = ""


def _clip(name: str, sha256: str) -> Weight:
    """A CLIP model; openai-clip itself takes the hash from the address."""
    return Weight(f"clip_model/{name}.pt", f"{_CLIP}/{sha256}/{name}.pt", sha256)


VIT_B = _clip("ViT-B-32", "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af")
VIT_L = _clip("ViT-L-14", "b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836")
VICLIP = (
    Weight(
        "ViCLIP/ViClip-InternVid-10M-FLT.pth",
        f"{HUB}/OpenGVLab/VBench_Used_Models/resolve/main/ViClip-InternVid-10M-FLT.pth",
    ),
    Weight(
        "ViCLIP/bpe_simple_vocab_16e6.txt.gz",
        "https://raw.githubusercontent.com/openai/CLIP/main/clip/bpe_simple_vocab_16e6.txt.gz",
        shipped="clip:bpe_simple_vocab_16e6.txt.gz",
    ),
)
GRIT = (
    Weight(
        "grit_model/grit_b_densecap_objectdet.pth",
        "https://datarelease.blob.core.windows.net/grit/models/grit_b_densecap_objectdet.pth",
    ),
)
DINO_CODE = "dino_model/facebookresearch_dino_main"
DINO_REPOSITORY = "https://github.com/facebookresearch/dino"
RAFT_ARCHIVE = "https://dl.dropboxusercontent.com/s/4j4z58wuv8o0mfz/models.zip"
