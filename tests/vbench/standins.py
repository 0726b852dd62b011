"""Small models with random weights, written in the format and place of VBench's own weights.

They prove that the code runs and that two ways of calling it agree; their scores mean nothing. RAFT and AMT are
full-size (5 and 3 million parameters). CLIP takes its sizes from the file and DINO from the hub's code, and both are
small here. ViCLIP, UMT and MUSIQ have their sizes in VBench's code: `shallow` sets smaller ones for as long as it
lasts, for the files' making and for their reading alike.
"""

import contextlib
import functools
import importlib
import shutil
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from unittest import mock

import torch
from torch import nn

ACTION = 7  # class of Kinetics 400 that the stand-in for UMT always sees: clapping

HUBCONF = '''
import torch
from torch import nn

class Tiny(nn.Module):
    """Patches of 32 x 32 pixels, mixed, averaged."""
    def __init__(self):
        super().__init__()
        self.patch = nn.Conv2d(3, 24, 32, 32)
        self.mix = nn.Linear(24, 16)

    def forward(self, x):
        return self.mix(torch.tanh(self.patch(x)).mean((2, 3)))

def dino_vitb16(pretrained=True, **kwargs):
    model = Tiny()
    if pretrained:
        url = "https://dl.fbaipublicfiles.com/dino/dino_vitbase16_pretrain/dino_vitbase16_pretrain.pth"
        model.load_state_dict(torch.hub.load_state_dict_from_url(url=url, map_location="cpu"), strict=True)
    return model
'''


def write_all(cache: Path) -> Path:
    """All stand-ins; `put_vocabulary` and VBench's import come first."""
    torch.manual_seed(0)
    for write in (write_raft, write_amt, write_musiq, write_clip, write_aesthetic, write_dino, write_umt, write_viclip):
        write(cache)
    return cache


def put_vocabulary(cache: Path) -> None:
    """The real one, which openai-clip ships; VBench fetches it while being imported."""
    vocabulary = cache / "ViCLIP" / "bpe_simple_vocab_16e6.txt.gz"
    vocabulary.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(Path(find_spec("clip").origin).with_name(vocabulary.name), vocabulary)


def save(content: object, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path)


def write_raft(cache: Path) -> None:
    from easydict import EasyDict
    from vbench.third_party.RAFT.core.raft import RAFT

    model = RAFT(EasyDict(small=False, mixed_precision=False, alternate_corr=False))
    weights = {f"module.{name}": value for name, value in model.state_dict().items()}  # as saved from DataParallel
    save(weights, cache / "raft_model/models/raft-things.pth")


def write_amt(cache: Path) -> None:
    from omegaconf import OmegaConf
    from vbench.third_party.amt.utils.build_utils import build_from_cfg

    config = Path(find_spec("vbench").origin).parent / "third_party/amt/cfgs/AMT-S.yaml"
    save({"state_dict": build_from_cfg(OmegaConf.load(config).network).state_dict()}, cache / "amt_model/amt-s.pth")


def write_musiq(cache: Path) -> None:
    from pyiqa.archs.musiq_arch import MUSIQ

    model = MUSIQ(pretrained=False, num_layers=1)
    nn.init.normal_(model.head.weight, std=1.0)
    save(model.state_dict(), cache / "pyiqa_model/musiq_spaq_ckpt-358bb6af.pth")


def write_clip(cache: Path) -> None:
    """ViT-B-32 and ViT-L-14 as TorchScript archives, one layer each; only the sizes that VBench relies on are real."""
    from clip.model import CLIP

    for name, patch, features in (("ViT-B-32", 32, 64), ("ViT-L-14", 14, 768)):
        model = CLIP(features, 224, 1, 64, patch, 77, 49408, 64, 1, 1).eval()
        inputs = (torch.zeros(1, 3, 224, 224), torch.zeros(1, 77, dtype=torch.long))
        path = cache / f"clip_model/{name}.pt"
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.jit.trace(model, inputs, check_trace=False).save(str(path))


def write_aesthetic(cache: Path) -> None:
    head = nn.Linear(768, 1)
    nn.init.normal_(head.weight, std=10.0)  # else clips differ by less than the tolerance
    save(head.state_dict(), cache / "aesthetic_model/emb_reader/sa_0_4_vit_l_14_linear.pth")


def write_dino(cache: Path) -> None:
    hub = cache / "dino_model/facebookresearch_dino_main/hubconf.py"
    hub.parent.mkdir(parents=True, exist_ok=True)
    hub.write_text(HUBCONF)
    scope: dict = {}
    exec(HUBCONF, scope)
    save(scope["Tiny"]().state_dict(), cache / "dino_model/dino_vitbase16_pretrain.pth")


def write_umt(cache: Path) -> None:
    from vibe_pipeline.vbench.compat import compatible

    with compatible("human_action"), shallow():
        from vbench import human_action

        model = human_action.vit_large_patch16_224(num_classes=400, all_frames=16, tubelet_size=1)
    model.head.bias.data[ACTION] = 5.0  # a sigmoid above the 0.85 that VBench asks for
    save(model.state_dict(), cache / "umt_model/l16_ptk710_ftk710_ftk400_f16_res224.pth")


def write_viclip(cache: Path) -> None:
    with shallow():
        viclip = importlib.import_module("vbench.third_party.ViCLIP.viclip")
        model = viclip.ViCLIP(tokenizer=object(), pretrain=None)
    for values in model.parameters():
        if values.ndim > 1:  # some are left uninitialised
            nn.init.normal_(values, std=0.05)
    save({"model": model.state_dict()}, cache / "ViCLIP/ViClip-InternVid-10M-FLT.pth")


@contextlib.contextmanager
def shallow() -> Iterator[None]:
    """Small sizes in the models whose sizes VBench's code fixes: ViCLIP's two towers, UMT and MUSIQ's depth."""
    from vibe_pipeline.vbench.compat import compatible

    viclip = importlib.import_module("vbench.third_party.ViCLIP.viclip")
    vision = importlib.import_module("vbench.third_party.ViCLIP.viclip_vision")
    imaging = importlib.import_module("vbench.imaging_quality")
    with compatible("human_action"):
        umt = importlib.import_module("vbench.third_party.umt.models.modeling_finetune")
    small = {"transformer_width": 64, "transformer_heads": 1, "transformer_layers": 1}
    with (
        mock.patch.object(
            vision, "VisionTransformer", with_sizes(vision.VisionTransformer, width=64, heads=1, layers=1)
        ),
        mock.patch.object(viclip, "clip_text_l14", with_sizes(viclip.clip_text_l14, **small)),
        mock.patch.object(
            umt, "VisionTransformer", with_sizes(umt.VisionTransformer, embed_dim=64, num_heads=1, depth=1)
        ),
        mock.patch.object(imaging, "MUSIQ", with_sizes(imaging.MUSIQ, num_layers=1)),
    ):
        yield


def with_sizes(build: Callable, **sizes: int) -> Callable:
    """The constructor with some sizes fixed."""

    @functools.wraps(build, updated=())
    def shrunk(*args: object, **options: object) -> object:
        return build(*args, **(options | sizes))

    return shrunk
