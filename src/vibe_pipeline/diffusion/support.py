"""Whether a model is one that this pipeline can run, told from its configurations alone.

diffusers builds a part from the settings that its class knows and leaves the others out, so a model with control
blocks or further input channels would be run in part, or fail once hours are spent. Every rule below is about a family
of published models that look alike on disk.
"""

import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from vibe_pipeline.io.errors import one_line

Config = Mapping[str, Any]

WAY_OUT = (
    "set model.path to a model that needs only text: Wan-AI/Wan2.1-T2V-1.3B-Diffusers, "
    "Wan-AI/Wan2.1-T2V-14B-Diffusers, Wan-AI/Wan2.2-TI2V-5B-Diffusers or Wan-AI/Wan2.2-T2V-A14B-Diffusers"
)
# The last two have the parts of the first; what differs (an image encoder, channels) is judged by the parts.
PIPELINES = ("WanPipeline", "WanVideoToVideoPipeline", "WanImageToVideoPipeline")
CLASSES: Mapping[str, str] = MappingProxyType(
    {"transformer": "WanTransformer3DModel", "vae": "AutoencoderKLWan", "text_encoder": "UMT5EncoderModel"}
)
HIGH_NOISE, LOW_NOISE = "transformer", "transformer_2"
"""Parts of a model of two experts, as diffusers names them: above the boundary of noise, and below."""
FAMILIES: Mapping[str, str] = MappingProxyType(
    {
        "VACE": "VACE, whose control blocks would be left out",
        "Animate": "Wan-Animate, which needs clips of a pose and a face",
        "SkyReels": "SkyReels, whose transformer has conditions of its own",
        "ChronoEdit": "ChronoEdit, which needs an image to edit",
        "DMD": "a step-distilled model with a sampler of its own",
    }
)
IMAGE_FIELDS = ("image_dim", "added_kv_proj_dim", "pos_embed_seq_len")
TIMESTEPS = 1000


def require_supported(folder: Path, index: Config, config_of: Callable[[str], dict[str, Any]]) -> None:
    """Refuse a model that would be run in part, or not at all.

    Args:
        folder: Of the model, in diffusers layout.
        index: The content of its model_index.json.
        config_of: Reads the configuration of a part, defaults filled in.

    Raises:
        FileNotFoundError: A part has no configuration: the download is incomplete.
        ValueError: One line: what the model is, by which file, and which ones can be used.
    """
    if (folder / LOW_NOISE).is_dir() and not class_in(index, LOW_NOISE):
        raise ValueError(
            f"{folder} holds a transformer_2 that its model_index.json does not name: half of a model of two experts "
            f"would be run; {WAY_OUT}"
        )
    for fault in _pipeline_faults(index):
        raise ValueError(f"{folder / 'model_index.json'}: {fault}; {WAY_OUT}")
    experts = experts_of(boundary_in(index, folder))
    for part in (*CLASSES, *experts[1:]):
        if not (file := folder / part / "config.json").is_file():
            raise FileNotFoundError(f"{file}: No such file; the download is incomplete: download the model again")
    transformer, vae, text = (config_of(part) for part in CLASSES)
    try:
        for part, fault in (
            *_class_faults({part: config_of(part) for part in (*experts, "vae")}),
            *_expert_faults(*map(config_of, experts)),
            *_image_faults(index, transformer, vae),
            *_size_faults(transformer, vae, text),
            *_vae_faults(vae),
        ):
            raise ValueError(f"{folder / part / 'config.json'}: {fault}; {WAY_OUT}")
    except (TypeError, KeyError, AttributeError) as error:  # a value of another kind than the class writes
        raise ValueError(
            f"{folder}: a configuration cannot be used: {one_line(error)}; download the model again"
        ) from error
    _require_timesteps(folder, bool(index.get("expand_timesteps")), vae)
    _require_flow(folder)


def read_config(file: Path) -> dict[str, Any]:
    """The content of a configuration.

    Raises:
        ValueError: It is not JSON, or not names and values.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is not JSON: {one_line(error)}; download the model again") from error
    if not isinstance(content, dict):
        raise ValueError(f"{file} holds {one_line(repr(content), 60)}, not names and values; download the model again")
    return content


def kind_of_part(part: str) -> str:
    """What a part is: each of two experts is a transformer."""
    return HIGH_NOISE if part == LOW_NOISE else part


def experts_of(boundary: float | None) -> tuple[str, ...]:
    """The transformers of a model, high noise first; with a boundary there are two. Adapters belong to the last."""
    return (HIGH_NOISE,) if boundary is None else (HIGH_NOISE, LOW_NOISE)


def boundary_in(index: Config, folder: Path) -> float | None:
    """The noise level from which a model's first expert works, below which its second does; None: it has one.

    Raises:
        ValueError: A second expert without a level, a level without one, or a level outside of (0, 1).
    """
    boundary, second = index.get("boundary_ratio"), class_in(index, LOW_NOISE)
    fault = ""
    if boundary is None and second:
        fault = (
            "names a transformer_2 and no boundary_ratio, the noise level where two experts change: set it there, to "
            "0.875 of Wan2.2-T2V-A14B"
        )
    elif boundary is not None and not second:
        fault = f"states boundary_ratio {boundary}, where two experts change, and names no transformer_2"
    elif boundary is not None and not (type(boundary) in (int, float) and 0 < boundary < 1):
        fault = f"states boundary_ratio {one_line(repr(boundary), 40)}, which is not a noise level between 0 and 1"
    if fault:
        raise ValueError(f"{folder / 'model_index.json'} {fault}; download the model again, or {WAY_OUT}")
    return None if boundary is None else float(boundary)


def class_in(index: Config, part: str) -> str | None:
    """The class that an index names for a part; None where it has none."""
    entry = index.get(part)
    return entry[1] if isinstance(entry, list) and len(entry) == 2 and isinstance(entry[1], str) else None


def family_of(name: str) -> str:
    """What a class's name says of the model it belongs to."""
    return next((said for word, said in FAMILIES.items() if word in name), "not one that is run here")


def _pipeline_faults(index: Config) -> Iterator[str]:
    """Of the index: another pipeline, a part of another class or none."""
    pipeline = index.get("_class_name")
    if pipeline not in PIPELINES:
        said = family_of(pipeline) if isinstance(pipeline, str) else "which is not the name of a pipeline"
        yield f"its pipeline is {one_line(repr(pipeline), 60)}: {said}"
    second = class_in(index, LOW_NOISE)
    for part in (*CLASSES, *([LOW_NOISE] if second else [])):
        name, wanted = class_in(index, part), CLASSES[kind_of_part(part)]
        if name is None:
            yield f"it names no {part}"
        elif name != wanted:
            yield f"its {part} is a {one_line(name, 60)}, not a {wanted}: {family_of(name)}"


def _class_faults(configs: Mapping[str, Config]) -> Iterator[tuple[str, str]]:
    """A part whose own configuration names another class than the index, or that is quantised."""
    for part, config in configs.items():
        wanted = CLASSES[kind_of_part(part)]
        name = config.get("_class_name", wanted)
        if name != wanted:
            yield part, f"a {one_line(name, 60)}, not a {wanted}: {family_of(str(name))}"
        if config.get("quantization_config"):
            yield part, "its weights are quantised, and only 16 and 32 bit are read"


def _expert_faults(first: Config, second: Config | None = None) -> Iterator[tuple[str, str]]:
    """Two experts that are not of one architecture: attention, adapters and the plan take one for the other."""
    for name in sorted(first if second is None else {**first, **second}):
        one, other = first.get(name), (second or first).get(name)
        if not name.startswith("_") and one != other:
            yield LOW_NOISE, f"{name} {other} where the transformer's is {one}: two experts of one model are alike"


def _image_faults(index: Config, transformer: Config, vae: Config) -> Iterator[tuple[str, str]]:
    """An image-to-video model, or one with a control input."""
    signs = [f"{name} {transformer[name]}" for name in IMAGE_FIELDS if transformer.get(name) is not None]
    if class_in(index, "image_encoder"):
        signs.insert(0, "an image_encoder")
    channels, latent = transformer["in_channels"], vae["z_dim"]
    if signs:
        yield (
            "transformer",
            (
                f"an image-to-video model ({', '.join(signs)}, in_channels {channels}), which cannot be run from text "
                "alone"
            ),
        )
    if channels != latent:
        yield (
            "transformer",
            (
                f"in_channels {channels} where the VAE's z_dim is {latent}: it takes a further input (an image, a mask "
                "or a control clip), which is not given here"
            ),
        )


def _size_faults(transformer: Config, vae: Config, text: Config) -> Iterator[tuple[str, str]]:
    """Parts that do not fit one another."""
    out = transformer.get("out_channels") or transformer["in_channels"]
    if out != vae["z_dim"]:
        yield "transformer", f"out_channels {out} where the VAE's z_dim is {vae['z_dim']}: not of one model"
    if transformer["text_dim"] != text["d_model"]:
        yield "transformer", f"text_dim {transformer['text_dim']} where the text encoder's d_model is {text['d_model']}"
    if len(patch := transformer["patch_size"]) != 3 or patch[0] != 1:
        yield "transformer", f"patch_size {list(patch)}: patches of one frame, [1, height, width], are read"


def _vae_faults(vae: Config) -> Iterator[tuple[str, str]]:
    """Scale factors that its layers do not have, or statistics of another number of channels."""
    patch = vae.get("patch_size") or 1
    space, time = patch * 2 ** (len(vae["dim_mult"]) - 1), 2 ** sum(map(bool, vae["temperal_downsample"]))
    for name, made in (("scale_factor_spatial", space), ("scale_factor_temporal", time)):
        if vae[name] != made:
            yield "vae", f"{name} {vae[name]} where its layers make {made}"
    if vae["in_channels"] != 3 * patch**2:
        yield "vae", f"in_channels {vae['in_channels']} where patch_size {patch} makes {3 * patch**2} of RGB"
    for name in ("latents_mean", "latents_std"):
        values = vae.get(name)
        if not isinstance(values, list | tuple) or len(values) != vae["z_dim"]:
            yield "vae", f"{name} does not have one value for each of z_dim {vae['z_dim']} channels"
        elif not all(isinstance(v, int | float) and math.isfinite(v) for v in values):
            yield "vae", f"{name} holds a value that is not a finite number"
        elif name == "latents_std" and not all(v > 0 for v in values):
            yield "vae", "latents_std holds a value that is not positive"


def _require_timesteps(folder: Path, per_token: bool, vae: Config) -> None:
    """TI2V models, which take a timestep a token, are those of the VAE that cuts its input to patches."""
    ti2v = (vae.get("patch_size") or 1) > 1
    if per_token != ti2v:
        kind = "that of the TI2V models" if ti2v else "not that of the TI2V models"
        raise ValueError(
            f"{folder / 'model_index.json'}: expand_timesteps is {str(per_token).lower()}, yet the VAE (z_dim "
            f"{vae['z_dim']}, patch_size {vae.get('patch_size')}) is {kind}, which take one timestep per token: set "
            f'"expand_timesteps": {str(ti2v).lower()} there, or download the model again'
        )


def _require_flow(folder: Path) -> None:
    """The scheduler is not used, but says what the transformer predicts: a velocity over 1000 timesteps."""
    file = folder / "scheduler" / "scheduler_config.json"
    if not file.is_file():
        return
    config = read_config(file)
    name, kind = str(config.get("_class_name", "")), config.get("prediction_type")
    if kind not in (None, "flow_prediction") or (kind is None and not name.startswith("FlowMatch")):
        raise ValueError(
            f"{file}: {one_line(name, 60)} with prediction_type {one_line(repr(kind), 40)}: the transformer does not "
            f"predict a flow's velocity; {WAY_OUT}"
        )
    if config.get("num_train_timesteps", TIMESTEPS) != TIMESTEPS:
        raise ValueError(
            f"{file}: num_train_timesteps is {config['num_train_timesteps']}, and Wan's transformers are told the "
            f"noise level in thousandths; {WAY_OUT}"
        )
