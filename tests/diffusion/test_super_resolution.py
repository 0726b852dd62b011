"""Super-resolution of one frame: the file is judged, tiles show no seam, RRDBNet costs what its formula says."""

import itertools
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from spandrel import ImageModelDescriptor, ModelTiling
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from tests.diffusion.rrdb_files import real_esrgan_file, real_esrgan_state
from vibe_pipeline.diffusion.rrdb import RrdbShape
from vibe_pipeline.diffusion.super_resolution import load_network, require_usable, shape_of, upscale
from vibe_pipeline.diffusion.tiles import tile_starts

CONTENT = torch.rand(1, 3, 150, 203, generator=torch.Generator().manual_seed(1))


def nearest(x: Tensor) -> Tensor:
    """Like an identity: every pixel becomes 4 x 4."""
    return F.interpolate(x, scale_factor=4, mode="nearest")


def blurring(x: Tensor) -> Tensor:
    """Sees 8 pixels around each, and takes black beyond its picture, as convolutions do."""
    kernel = torch.full((3, 1, 17, 17), 1 / 289)
    return nearest(F.conv2d(x, kernel, padding=8, groups=3))


@pytest.mark.parametrize(
    ("length", "tile", "overlap"),
    [(203, 64, 32), (150, 96, 32), (704, 256, 40), (97, 96, 32), (96, 96, 32), (50, 96, 32)],
)
def test_tiles_cover_an_axis_and_share_at_least_the_overlap(length: int, tile: int, overlap: int) -> None:
    starts = tile_starts(length, tile, overlap)
    assert starts[0] == 0 and starts[-1] + min(tile, length) == length
    assert all(0 < b - a <= tile - overlap for a, b in itertools.pairwise(starts))
    assert len(starts) == (1 if length <= tile else -(-(length - overlap) // (tile - overlap)))
    assert tile_starts(length, None, overlap) == [0]


@pytest.mark.parametrize("network", [nearest, blurring])
@pytest.mark.parametrize("tile", [64, 80, 96, 200])
def test_a_network_that_sees_little_gives_the_same_in_tiles(network: Callable[[Tensor], Tensor], tile: int) -> None:
    """With 32 pixels shared, the outer 8 of a tile, where its edge was padded, count for nothing."""
    whole = upscale(network, 4, CONTENT)
    assert whole.shape == (1, 3, 600, 812)
    torch.testing.assert_close(upscale(network, 4, CONTENT, tile, 32), whole, rtol=0, atol=2e-6)


def test_a_network_that_sees_far_leaves_no_seam() -> None:
    """What depends on a tile's place changes over the blend and not from one pixel to the next."""

    def shaded(x: Tensor) -> Tensor:  # as bright as its tile is on average
        return x.mean().expand(1, 3, 4 * x.shape[-2], 4 * x.shape[-1]).clone()

    ramp = torch.linspace(0, 1, 203).expand(1, 3, 150, 203)
    tiled = upscale(shaded, 4, ramp, 64, 32)
    steps = tiled.diff(dim=-1).abs().max()
    apart = max(b - a for a, b in itertools.pairwise(tile_starts(203, 64, 32))) / 202
    assert tiled.max() - tiled.min() > 0.5
    assert steps <= apart / 64 * 1.5  # a pasted tile would step by all of `apart` at once


def test_the_real_files_layout_is_loaded(tmp_path: Path) -> None:
    """As basicsr computes it: the same convolutions by hand give the same picture."""
    path = real_esrgan_file(tmp_path)
    network = load_network(path)
    assert (network.scale, network.architecture.id, shape_of(network)) == (4, "ESRGAN", RrdbShape(8, 1, 4, 1))
    picture = CONTENT[..., :12, :10]
    torch.testing.assert_close(
        upscale(network, 4, picture), by_hand(real_esrgan_state(), picture), rtol=1e-4, atol=1e-5
    )
    assert not any(p.requires_grad for p in network.model.parameters())


def by_hand(state: dict[str, Tensor], x: Tensor) -> Tensor:
    """RRDBNet written out from its description (Wang et al., ESRGAN, arXiv 1809.00219, section 3.1)."""

    def conv(name: str, value: Tensor) -> Tensor:
        return F.conv2d(value, state[f"{name}.weight"], state[f"{name}.bias"], padding=1)

    def act(value: Tensor) -> Tensor:
        return F.leaky_relu(value, 0.2)

    trunk = first = conv("conv_first", x)
    block = trunk
    for dense in (1, 2, 3):
        seen = [block]
        for i in range(1, 5):
            seen.append(act(conv(f"body.0.rdb{dense}.conv{i}", torch.cat(seen, 1))))
        block = block + 0.2 * conv(f"body.0.rdb{dense}.conv5", torch.cat(seen, 1))
    trunk = first + conv("conv_body", trunk + 0.2 * block)
    for name in ("conv_up1", "conv_up2"):
        trunk = act(conv(name, F.interpolate(trunk, scale_factor=2, mode="nearest")))
    return conv("conv_last", act(conv("conv_hr", trunk))).clamp(0, 1)


def test_the_folded_form_enlarges_twice(tmp_path: Path) -> None:
    network = load_network(real_esrgan_file(tmp_path, unshuffle=2))
    assert (network.scale, shape_of(network)) == (2, RrdbShape(8, 1, 4, 2))
    assert upscale(network, 2, CONTENT[..., :13, :10]).shape == (1, 3, 26, 20)  # its own sizes are multiples of 4
    tiled = upscale(network, 2, CONTENT[..., :96, :70], 64, 32)
    assert tiled.shape == (1, 3, 192, 140)


def test_safetensors_are_loaded_too(tmp_path: Path) -> None:
    path = tmp_path / "x4.safetensors"
    save_file(real_esrgan_state(), path)
    assert load_network(path).scale == 4


@pytest.mark.parametrize("shape", [RrdbShape(), RrdbShape(unshuffle=2), RrdbShape(features=16, blocks=2)])
def test_the_formula_counts_what_torch_counts(shape: RrdbShape) -> None:
    """x4plus, x2plus and a small one, against torch's FLOP counter on spandrel's own network."""
    from spandrel.architectures.ESRGAN import ESRGAN

    with torch.device("meta"):
        network = ESRGAN(
            in_nc=3 * shape.unshuffle**2,
            num_filters=shape.features,
            num_blocks=shape.blocks,
            scale=shape.scale,
            shuffle_factor=shape.unshuffle if shape.unshuffle > 1 else None,
        )
        picture = torch.empty(1, 3, 36, 44)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(picture)
    assert shape.flops(36, 44) == counter.get_total_flops()


def test_a_720p_frame_costs_32_teraflop() -> None:
    """The figure of BASELINES for x4plus."""
    assert RrdbShape().flops(704, 1280) / 1e12 == pytest.approx(32.3, abs=0.1)


class Bomb:
    def __reduce__(self) -> tuple:
        return (Path.touch, (Path("/tmp/vibe-exploded"),))


def write(name: str, content: Any) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path = folder / name
        path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
        return path

    return make


STATE = real_esrgan_state()
BAD: dict[str, tuple[Callable[[Path], Path], str]] = {
    "another kind of file": (write("x.onnx", b"onnx"), "is not a file of weights"),
    "a web page": (write("x.pth", b"<!doctype html>"), "web page"),
    "empty": (write("x.pth", b""), "empty"),
    "code": (write("x.pth", pickle.dumps(Bomb())), "x.pth"),
    "code beside tensors": (write("x.pth", {"params_ema": STATE, "hook": Bomb()}), "more than tensors"),
    "a list": (write("x.pth", [torch.ones(1)]), "holds list"),
    "unknown": (write("x.pth", {"layer.weight": torch.ones(2, 2)}), "no network that spandrel knows"),
    "half": (
        write("x.pth", {"params_ema": {k: v for k, v in STATE.items() if ".rdb2." not in k}}),
        "cannot be loaded as a network",
    ),
    "NaN": (write("x.pth", {"params_ema": STATE | {"conv_hr.bias": torch.full((8,), float("nan"))}}), "NaN"),
    "grey": (
        write("x.pth", {"params_ema": STATE | {"conv_first.weight": torch.ones(8, 1, 3, 3)}}),
        "not RGB to RGB",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_file_that_is_not_such_a_network_is_refused_by_name(case: str, tmp_path: Path) -> None:
    make, said = BAD[case]
    path = make(tmp_path)
    with pytest.raises(ValueError, match=said) as refused:
        load_network(path)
    assert str(path) in str(refused.value) and "\n" not in str(refused.value)
    assert not Path("/tmp/vibe-exploded").exists()


def test_a_cut_file_is_refused(tmp_path: Path) -> None:
    path = real_esrgan_file(tmp_path)
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(ValueError, match=r"RealESRGAN_x4plus\.pth cannot be read"):
        load_network(path)


def test_what_an_architecture_cannot_take_is_refused(tmp_path: Path) -> None:
    found = load_network(real_esrgan_file(tmp_path))
    require_usable(found, tmp_path, torch.bfloat16, 128)

    class Picky:
        architecture, supports_half, supports_bfloat16, tiling = found.architecture, False, True, ModelTiling.INTERNAL

    picky: ImageModelDescriptor = Picky()  # type: ignore[assignment]
    with pytest.raises(ValueError, match=r"does not run in float16: set sr\.dtype to float32"):
        require_usable(picky, tmp_path, torch.float16, None)
    with pytest.raises(ValueError, match=r"needs the whole picture: leave out sr\.tile"):
        require_usable(picky, tmp_path, torch.float32, 128)
    require_usable(picky, tmp_path, torch.float32, None)
