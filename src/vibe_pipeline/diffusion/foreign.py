"""What a path is that is not a model in diffusers layout, and what to give instead."""

import re
from pathlib import Path

from vibe_pipeline.diffusion.headers import read_header
from vibe_pipeline.diffusion.support import read_config
from vibe_pipeline.io.errors import one_line

HUB_ID = re.compile(r"(?!\.)[\w.-]{1,96}/[\w.-]{1,96}")  # the hub's own bound
# Wan's own releases, by the type and width that their config.json states.
RELEASES = {
    ("t2v", 1536): "Wan-AI/Wan2.1-T2V-1.3B-Diffusers",
    ("t2v", 5120): "Wan-AI/Wan2.1-T2V-14B-Diffusers",
    ("ti2v", 3072): "Wan-AI/Wan2.2-TI2V-5B-Diffusers",
}
EXPERTS = {"t2v": "Wan-AI/Wan2.2-T2V-A14B-Diffusers"}
"""Of two experts, by the type alone."""
EXAMPLE = RELEASES["t2v", 1536]
WEIGHTS = (".safetensors", ".gguf", ".pth", ".pt", ".ckpt", ".bin")
PARTS = ("transformer", "transformer_2", "vae", "text_encoder", "tokenizer", "scheduler", "image_encoder")
TRANSFORMER_KEYS = ("patch_embedding.weight", "blocks.0.self_attn.q.weight")


def absent(path_or_id: str) -> str:
    """What to say of a path or id that is neither a folder nor in the hub's cache."""
    if HUB_ID.fullmatch(path_or_id) and Path(path_or_id).suffix not in WEIGHTS:
        return (
            f"model.path {path_or_id!r} is neither a folder nor a model downloaded before; get it with "
            f"`hf download {path_or_id}` or set model.path to a local folder"
        )
    return (
        f"model.path {one_line(path_or_id)!r} does not exist; set it to a folder in diffusers layout or to a hub id, "
        f"for example {EXAMPLE}, which `hf download {EXAMPLE}` brings"
    )


def describe_file(path: Path) -> str:
    """What a single file is that was given as a model."""
    if path.suffix == ".gguf":
        kind = "a GGUF file (quantised weights of one part)"
    elif path.suffix == ".safetensors":
        kind = _single(path)
    elif path.suffix in WEIGHTS:
        kind = "a pickle, which can run code"
    else:
        kind = "a file"
    return f"model.path {path} is {kind}, not a folder in diffusers layout; {_instead('')}"


def describe_folder(folder: Path) -> str:
    """What a folder without model_index.json is."""
    begin = f"{folder} has no model_index.json: it is not a model in diffusers layout"
    if said := _cache(folder):
        return f"{begin}, but {said}"
    if said := _original(folder):
        return f"{begin}, but {said}"
    if folder.name in PARTS and (folder.parent / "model_index.json").is_file():
        return f"{begin}, but one part of one; set model.path to {folder.parent}"
    if (adapter := folder / "adapter_config.json").is_file() or (folder / "pytorch_lora_weights.safetensors").is_file():
        what = adapter.name if adapter.is_file() else "pytorch_lora_weights.safetensors"
        return f"{begin}, but an adapter ({what}): name it in an arm's extra_adapters; {_instead('')}"
    if inside := sorted(p.parent for p in folder.glob("*/model_index.json")):
        return f"{begin}, but {inside[0]} is one; set model.path to it"
    files = sorted(p for p in folder.iterdir() if p.suffix in WEIGHTS)
    if any((folder / part).is_dir() for part in PARTS[:4]):
        return f"{begin} as it stands: the download is incomplete or model_index.json was left out; {_instead('')}"
    if files:
        kind = "GGUF files" if files[0].suffix == ".gguf" else _single(files[0])
        return f"{begin}, but holds {kind} ({files[0].name}); {_instead('')}"
    return f"{begin}; {_instead('')}"


def _instead(release: str) -> str:
    wanted = release or EXAMPLE
    return f"get one with `hf download {wanted}` and set model.path: {wanted}"


def _single(path: Path) -> str:
    """What one .safetensors file holds, by its keys."""
    try:
        keys = list(read_header(path).shapes)
    except ValueError as error:
        return f"a file that cannot be read ({one_line(error, 120)})"
    if any(key.endswith(("lora_down.weight", "lora_up.weight", "lora_A.weight", "lora_B.weight")) for key in keys):
        return "a LoRA, which belongs into an arm's extra_adapters"
    if any(key.endswith(TRANSFORMER_KEYS) for key in keys):
        return "a transformer in one file, as ComfyUI and Wan's own code read it, without text encoder and VAE"
    return "a single file of weights"


def _cache(folder: Path) -> str:
    """The hub's cache: a folder of snapshots, or one of several models."""
    if folder.name.startswith("models--"):
        found = sorted((folder / "snapshots").glob("*/model_index.json"))
        model = folder.name.removeprefix("models--").replace("--", "/")
        inside = f" or to {found[-1].parent}" if found else f", once `hf download {model}` has finished"
        return f"the hub's cache of {model}: set model.path to the id {model}{inside}"
    if models := sorted(p.name for p in folder.glob("models--*")):
        model = models[0].removeprefix("models--").replace("--", "/")
        return f"the hub's cache: set model.path to the id of a model in it, such as {model}"
    return ""


def _original(folder: Path) -> str:
    """Wan's own layout: a config.json with the type at the top, the VAE and the text encoder as pickles."""
    files = [*folder.glob("Wan2*_VAE.pth"), *folder.glob("models_t5_*.pth")]
    experts = [folder / name for name in ("high_noise_model", "low_noise_model") if (folder / name).is_dir()]
    homes = [home for home in (folder, *experts) if (home / "config.json").is_file()]
    config = read_config(homes[0] / "config.json") if homes else {}
    kind = config.get("model_type")
    if not (files or experts or (isinstance(kind, str) and "dim" in config)):
        return ""
    seen = [f"model_type {kind}"] if kind else []
    seen += [path.name for path in (*experts, *files)][:3]
    release = EXPERTS.get(str(kind), "") if experts else RELEASES.get((str(kind), config.get("dim", 0)), "")
    if not release and not experts and kind in (None, "t2v") and (folder / "Wan2.2_VAE.pth").is_file():
        release = RELEASES["ti2v", 3072]
    said = f"Wan's original layout ({', '.join(seen)})"
    if release:
        return f"{said}, which diffusers publishes as {release}: {_instead(release)}"
    return f"{said} of a model that is not run here; {_instead('')}"
