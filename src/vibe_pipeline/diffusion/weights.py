"""Whether a model's files are whole and are of the architecture that its configurations state; no tensor is read."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from vibe_pipeline.diffusion.headers import impostor, read_header
from vibe_pipeline.diffusion.support import WAY_OUT, kind_of_part, read_config
from vibe_pipeline.io.errors import one_line

if TYPE_CHECKING:
    from torch import nn

SHOWN = 3
STEMS: Mapping[str, str] = MappingProxyType(
    {"transformer": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "model"}
)
TOKENIZERS = ("tokenizer.json", "spiece.model")
TIED = frozenset({"shared.weight", "encoder.embed_tokens.weight"})

Shapes = dict[str, tuple[int, ...]]
Once = Callable[[tuple[Any, ...], Callable[[], Any]], Any]
"""Looks a result up by its key, and makes it where it is not kept."""


def on_meta(part: str, config: Mapping[str, Any]) -> "nn.Module":
    """A part of a model from its configuration, frozen, without weights (on torch's `meta` device)."""
    # Not at the top: they take seconds to import, and files are judged, by what is kept of earlier ones, without them.
    import torch
    from diffusers import AutoencoderKLWan, WanTransformer3DModel
    from transformers import UMT5Config, UMT5EncoderModel

    with torch.device("meta"):
        if part == "text_encoder":
            return UMT5EncoderModel(UMT5Config(**config)).requires_grad_(False).eval()
        cls = {"transformer": WanTransformer3DModel, "vae": AutoencoderKLWan}[part]
        return cls.from_config({k: v for k, v in config.items() if not k.startswith("_")}).requires_grad_(False).eval()


def linear_shapes(transformer: "nn.Module") -> Shapes:
    """[out, in] of every linear layer by its name: what an adapter can be laid on."""
    from torch import nn

    return {n: tuple(m.weight.shape) for n, m in transformer.named_modules() if isinstance(m, nn.Linear)}


def made(key: tuple[Any, ...], make: Callable[[], Any]) -> Any:
    """Keep nothing: every result is made."""
    return make()


def require_weights(folder: Path, configs: Mapping[str, Mapping[str, Any]], once: Once = made) -> None:
    """Refuse a model whose weights are not all there, or are those of another architecture.

    Args:
        folder: Of the model.
        configs: Of `transformer`, `vae` and `text_encoder`, and `transformer_2` where there are two experts.
        once: Keeps the shapes that a configuration asks for; by default each is made by building the module.

    Raises:
        ValueError: One line: the files, and what is wrong with each.
    """
    faults = [*_tokenizer_faults(folder), *(fault for part in configs for fault in _file_faults(folder, part))]
    way_out = "download the model again"
    if not faults:
        faults = [fault for part, config in configs.items() for fault in _shape_faults(folder, part, config, once)]
        way_out += f", or {WAY_OUT}"
    if faults:
        more = f"; and {len(faults) - SHOWN} more" if len(faults) > SHOWN else ""
        raise ValueError(f"{folder} is not whole: {'; '.join(faults[:SHOWN])}{more}; {way_out}")


def shards_of(folder: Path, stem: str) -> list[str]:
    """Names of a part's files in its folder, as diffusers and transformers look for them: an index comes first.

    Raises:
        ValueError: The index names no files.
    """
    index = folder / f"{stem}.safetensors.index.json"
    if not index.is_file():
        return [f"{stem}.safetensors"]
    shards = read_config(index).get("weight_map")
    if not isinstance(shards, dict) or not shards or not all(isinstance(name, str) for name in shards.values()):
        raise ValueError(f"{index}: its weight_map does not name files; download the model again")
    return sorted(set(shards.values()))


def _files(folder: Path, part: str) -> list[str]:
    return shards_of(folder / part, STEMS[kind_of_part(part)])


def _file_faults(folder: Path, part: str) -> Iterator[str]:
    for name in _files(folder, part):
        path = folder / part / name
        if path.is_file():
            yield from _content_faults(path, f"{part}/{name}")
            continue
        others = sorted(p.name for p in (folder / part).iterdir() if p.suffix in (".safetensors", ".bin", ".gguf"))
        unread = [other for other in others if other not in _files(folder, part)]
        hint = f" (there is {unread[0]}: variants, pickles and GGUF are not read)" if unread else ""
        broken = " (a link to a file that is gone)" if path.is_symlink() else ""
        yield f"{part}/{name} is not there{broken or hint}"


def _content_faults(path: Path, name: str) -> Iterator[str]:
    if said := impostor(path):
        yield f"{name} is {said}"
        return
    try:
        read_header(path)
    except ValueError as error:  # cut short, most likely
        yield one_line(str(error).replace(str(path), name), 160)


def _tokenizer_faults(folder: Path) -> Iterator[str]:
    files = [path for name in TOKENIZERS if (path := folder / "tokenizer" / name).is_file()]
    if not files:
        yield f"tokenizer/{' or '.join(TOKENIZERS)} is not there"
    for path in files:
        if said := impostor(path):
            yield f"tokenizer/{path.name} is {said}"


def expected_shapes(part: str, config: Mapping[str, Any], once: Once = made) -> tuple[Shapes, list[str]]:
    """Shapes of all tensors of a part, and words in the names of those that its class leaves unread."""
    expected, ignored = once(("shapes", part, config), lambda: _expected(part, config))
    return {name: tuple(shape) for name, shape in expected.items()}, ignored


def _expected(part: str, config: Mapping[str, Any]) -> tuple[Shapes, list[str]]:
    module = on_meta(part, config)
    shapes = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    return shapes, list(getattr(module, "_keys_to_ignore_on_load_unexpected", None) or [])


def _shape_faults(folder: Path, part: str, config: Mapping[str, Any], once: Once) -> Iterator[str]:
    """Against a model without weights: diffusers fills what is missing at random, and drops what is too much."""
    stored: Shapes = {}
    for name in _files(folder, part):
        stored |= read_header(folder / part / name).shapes
    wanted, ignored = expected_shapes(kind_of_part(part), config, once)
    if part == "text_encoder":  # an encoder may lie in a file with its decoder
        stored = {name: shape for name, shape in stored.items() if name in wanted}
        tied = TIED if TIED & stored.keys() else frozenset()
        wanted = {name: shape for name, shape in wanted.items() if name in stored or name not in tied}
    for fault in shape_faults(stored, wanted, ignored, "its config.json"):
        yield f"{part} {fault}"


def shape_faults(stored: Shapes, wanted: Shapes, ignored: Sequence[str], of: str) -> Iterator[str]:
    """What is wrong with the tensors of a part: missing, unknown, of another shape; each begins with a verb.

    Args:
        stored: Of the files.
        wanted: Of the class.
        ignored: Words in the names of tensors that the class leaves unread.
        of: Whose the wanted ones are, in words.
    """
    if missing := sorted(wanted.keys() - stored.keys()):
        yield f"lacks {len(missing)} of the {len(wanted)} tensors of {of}, among them {missing[0]}"
    strange = sorted(n for n in stored.keys() - wanted.keys() if not any(word in n for word in ignored))
    if strange:
        yield f"has {len(strange)} tensors that its class does not know, among them {one_line(strange[0], 80)}"
    other = sorted(n for n in stored.keys() & wanted.keys() if stored[n] != wanted[n])
    if other:
        name = other[0]
        yield f"has {len(other)} tensors of other shapes, among them {name} {stored[name]}, not {wanted[name]}"
