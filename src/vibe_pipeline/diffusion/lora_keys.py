"""The keys of LoRA files: which program's layout they are in, and which layer and factor each names.

A key is a prefix (the wrapper that the trainer saved), a module (as diffusers or Wan's own code names it, with dots or
underscores) and an end (which factor, or another kind of change). Sources: ComfyUI comfy/lora.py and
comfy/weight_adapter, LyCORIS lycoris/modules, peft's save format, DiffSynth-Studio's GeneralLoRAFromPeft, diffusers
loaders/lora_conversion_utils.py.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from vibe_pipeline.diffusion.lora_names import diffusers_name, native_name

End = Literal["A", "B", "alpha", "difference"]

FACTOR = re.compile(
    r"(?P<module>.+)\.(?P<factor>lora_A|lora_B|lora_down|lora_up|lora\.down|lora\.up|lora_linear_layer\.down"
    r"|lora_linear_layer\.up)(\.(?!weight$)[A-Za-z_]\w*)?(\.weight)?"
)
# Changes of a tensor by a whole one, as few-step LoRAs carry them for biases, norms and modulations.
DIFFERENCE = re.compile(r"(?P<module>.+)\.(diff|diff_b|diff_m|w_norm|b_norm|lora_B(\.\w+)?\.bias)")
# The wrappers that trainers save, longest first, and what the layout is called.
PREFIXES: Mapping[str, str] = MappingProxyType(
    {
        "base_model.model.": "peft",
        "lora_transformer_": "kohya",
        "lora_unet__": "kohya",
        "lora_unet_": "kohya",
        "lycoris_": "lycoris",
        "pipe.dit.": "diffsynth",
        "model.diffusion_model.": "comfyui",
        "diffusion_model.": "comfyui",
        "transformer.": "diffusers",
        "_orig_mod.": "",
        "module.": "",
        "model.": "",
        "dit.": "",
    }
)
# Other kinds of adapters, by what their keys end in.
KINDS: Mapping[str, re.Pattern[str]] = MappingProxyType(
    {
        "LoHa": re.compile(r"\.hada_[wt][12]"),
        "LoKr": re.compile(r"\.lokr_[wt][12]"),
        "DoRA": re.compile(r"\.(dora_scale|lora_magnitude_vector)"),
        "OFT": re.compile(r"\.oft_|\.boft_"),
        "GLoRA": re.compile(r"\.[ab][12]\.weight$"),
        "IA3": re.compile(r"\.(on_input$|ia3_l)"),
        "LoCon with a middle factor": re.compile(r"\.lora_mid"),
        "whole weights": re.compile(r"\.set_weight$|\.(modulation|scale_shift_table)$"),
    }
)
# Where the keys are another model's, or another part's.
STRANGERS: Mapping[str, str] = MappingProxyType(
    {
        "lora_te": "a text encoder's",
        "text_encoder": "a text encoder's",
        "transformer_2.": "of the second expert of an A14B model",
        "double_blocks": "of HunyuanVideo or FLUX",
        "single_blocks": "of HunyuanVideo or FLUX",
        "transformer_blocks": "of FLUX, LTX or CogVideoX",
        "down_blocks": "of a U-Net such as Stable Diffusion's",
        "input_blocks": "of a U-Net such as Stable Diffusion's",
        "unet": "of a U-Net such as Stable Diffusion's",
        "vace_blocks": "of a VACE model",
    }
)


@dataclass(frozen=True)
class Key:
    """What a key names: a module by diffusers' name (of a difference: as written), and what of it."""

    module: str
    end: End

    def __str__(self) -> str:
        return f"{self.module}.{'alpha' if self.end == 'alpha' else f'lora_{self.end}.weight'}"


def split_prefix(key: str) -> tuple[str, str]:
    """The wrappers in front of a key, one or several, and the rest."""
    rest = key
    while found := next((p for p in PREFIXES if rest.startswith(p)), ""):
        rest = rest.removeprefix(found)
    return key[: len(key) - len(rest)], rest


def layout_of(keys: Iterable[str]) -> str:
    """What the layout of a file's keys is called: by their prefix, or by how they name the modules."""
    names = list(keys)
    prefix = Counter(split_prefix(key)[0] for key in names).most_common(1)[0][0]
    for part, layout in PREFIXES.items():
        if layout and part in prefix:
            return layout
    if any(".default." in key for key in names):
        return "diffsynth"
    return "diffusers" if any(re.search(r"\.attn[12]\.|\.ffn\.net\.", key) for key in names) else "wan"


def parse_key(rest: str) -> Key:
    """A key without its prefix.

    Raises:
        ValueError: Not a part of a low-rank update of a Wan transformer's linear layer, nor a difference.
    """
    if match := DIFFERENCE.fullmatch(rest):
        return Key(match["module"], "difference")
    if rest.endswith(".alpha"):
        return Key(module_of(rest.removesuffix(".alpha")), "alpha")
    if match := FACTOR.fullmatch(rest):
        down = match["factor"].endswith(("A", "down"))
        return Key(module_of(match["module"]), "A" if down else "B")
    raise ValueError(f"{rest} is not a part of a low-rank update")


def module_of(name: str) -> str:
    """diffusers' name of a module that is written in diffusers' or in Wan's names, with dots or underscores."""
    try:
        native_name(name)  # it must exist
        return name
    except ValueError:
        return diffusers_name(name)


def kind_of(keys: Iterable[str]) -> str:
    """What keys are that are not a LoRA's of a Wan transformer; empty if that is not known."""
    names = list(keys)
    for kind, pattern in KINDS.items():
        if any(pattern.search(name) for name in names):
            return f"{kind}, not LoRA"
    return next((said for word, said in STRANGERS.items() if any(word in name for name in names)), "")


def is_importable(keys: Iterable[str]) -> str:
    """The layout of keys that `import-adapter` reads; empty where it would refuse them."""
    names = list(keys)
    try:
        ends = {parse_key(split_prefix(key)[1]).end for key in names}
    except ValueError:
        return ""
    return layout_of(names) if {"A", "B"} <= ends else ""
