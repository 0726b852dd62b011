"""The entries of KINDS: a new one is one class, which parameters, installing, plan, checks and report then follow."""

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar

import pytest
import torch
from pydantic import Field, ValidationError
from torch.nn.functional import scaled_dot_product_attention as sdpa

from vibe_pipeline.diffusion.attention import (
    KINDS,
    AttentionKind,
    FunctionPlan,
    GclfSettings,
    Place,
    attention_words,
    install_gclf,
    kind_of,
)
from vibe_pipeline.diffusion.attention.kinds import Full, Gclf, Window
from vibe_pipeline.diffusion.checkpoint import find_model
from vibe_pipeline.diffusion.flops import keys_by_layer, transformer_flops
from vibe_pipeline.experiment.attention import AttentionParams, attention_params
from vibe_pipeline.experiment.load import ParameterError
from vibe_pipeline.experiment.model import ClipSize
from vibe_pipeline.generation.attention_sizes import require_fitting_attention
from vibe_pipeline.generation.methods import checked_tables, method_of
from vibe_pipeline.io.keys import content_key
from vibe_pipeline.planning.architecture import load_architecture
from vibe_pipeline.planning.costs import Costs
from vibe_pipeline.planning.devices import find_device

GRID, TEXT = (2, 4, 6), 5


@dataclass(frozen=True)
class Frames(AttentionKind):
    """A toy in ten lines: every query sees the frames of its group."""

    name: ClassVar[str] = "frames"
    parts: Annotated[int, Field(ge=1, description="how many parts of frames")] = 2

    def keys(self, grid, native, layer):
        return math.prod(grid) // self.parts

    def multiples(self, grid):
        return (self.parts, 1, 1)

    def plan(self, place: Place):
        def attend(q, k, v, scale):
            return sdpa(*(x.unflatten(2, (self.parts, -1)) for x in (q, k, v)), scale=scale).flatten(2, 3)

        return FunctionPlan(place.grid, attend)


@pytest.fixture
def toys(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(KINDS, "frames", Frames)
    return attention_params(KINDS.values())


def forward(transformer, grid=GRID):
    generator = torch.Generator().manual_seed(0)
    channels = transformer.config.in_channels
    latent = torch.randn(1, channels, grid[0], 2 * grid[1], 2 * grid[2], generator=generator)
    text = torch.randn(1, TEXT, transformer.config.text_dim, generator=generator)
    with torch.no_grad():
        return transformer(latent, torch.tensor([500]), text).sample


def test_a_new_kind_is_installed_and_changes_what_it_should(wan21, toys) -> None:
    transformer = wan21.transformer()
    plain = forward(transformer)
    install_gclf(transformer, toys(kind="frames", parts=1))
    torch.testing.assert_close(forward(transformer), plain)
    install_gclf(transformer, toys(kind="frames", parts=2))
    divided = forward(transformer)
    assert not torch.allclose(divided, plain)
    install_gclf(transformer, toys(kind="frames", parts=2, scale=1e-6))
    assert not torch.allclose(forward(transformer), divided)
    with pytest.raises(ValueError, match="unknown attention backend 'gather' for kind 'frames'"):
        install_gclf(transformer, toys(kind="frames"), backend="gather")


def test_plan_and_training_count_a_new_kind(wan21, toys) -> None:
    assert keys_by_layer(toys(kind="frames"), GRID, GRID[1:], 1) == [24]
    transformer = wan21.transformer()
    install_gclf(transformer, toys(kind="frames"))
    counted = transformer_flops(transformer, GRID, TEXT).attention_forward
    install_gclf(transformer, toys(kind="full"))
    assert counted / transformer_flops(transformer, GRID, TEXT).attention_forward == (24 + TEXT) / (48 + TEXT)


def test_parameters_checks_key_and_report_follow_a_new_kind(wan21, toys) -> None:
    row = toys(kind="frames", parts=3)
    assert attention_words(row) == "frames" and row.model_dump()["parts"] == 3
    assert toys.model_fields["parts"].description == "how many parts of frames"
    with pytest.raises(ValidationError, match="parts belongs to frames, not to attention kind 'full'"):
        toys(kind="full", parts=3)
    with pytest.raises(ValidationError, match="greater than or equal to 1"):
        toys(kind="frames", parts=0)
    size = ClipSize(height=64, width=96, frames=5)
    with pytest.raises(ValueError, match=r"arms\.a with frames attention: model\.target of 5 frames is 2 .* 9 frames"):
        require_fitting_attention(find_model(str(wan21.path)), size, row, "arms.a: model.target")
    require_fitting_attention(find_model(str(wan21.path)), size, toys(kind="frames"), "arms.a: model.target")
    assert content_key(toys(kind="frames", parts=2)) != content_key(row)
    assert content_key(toys(kind="gclf")) == content_key(AttentionParams(kind="gclf"))


@dataclass(frozen=True)
class Own(AttentionKind):
    """Applies RoPE itself; in its second layer queries stand where the first token stands."""

    name: ClassVar[str] = "own"
    rotates: ClassVar[bool] = True
    local: ClassVar[bool] = True
    copies: ClassVar[float] = 400

    def keys(self, grid, native, layer):
        return math.prod(grid) * (1 + layer)

    def variant(self, layer):
        return layer % 2

    def plan(self, place: Place):
        moved = torch.zeros(math.prod(place.grid), dtype=torch.long) if self.variant(place.layer) else None

        def attend(q, k, v, scale, rotary):
            return sdpa(rotary.turned(q, moved), rotary.turned(k), v, scale=scale)

        return FunctionPlan(place.grid, attend)


def test_a_kind_may_apply_rope_itself_and_tell_layers_apart(wan21, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(KINDS, "own", Own)
    transformer, settings = wan21.transformer(), GclfSettings(kind="own")
    seen = {}

    def note(layer):
        return lambda module, args, out: seen.setdefault(layer, []).append((args, out))

    handles = [block.attn1.register_forward_hook(note(i)) for i, block in enumerate(transformer.blocks)]
    forward(transformer)
    installed = install_gclf(transformer, settings)
    forward(transformer)
    torch.testing.assert_close(seen[0][1][1], seen[0][0][1])  # RoPE of its own in its own places: the same
    (args, mine), stock = seen[1][1], seen[1][0][1]
    assert not torch.allclose(mine, stock)
    for handle in handles:
        handle.remove()
    cos, sin = args[3]
    hidden, attn = args[0], transformer.blocks[1].attn1
    projected = attn.norm_q(attn.to_q(hidden)), attn.norm_k(attn.to_k(hidden)), attn.to_v(hidden)
    q, k, v = (x.unflatten(2, (2, 16)).transpose(1, 2) for x in projected)
    expected = sdpa(turn(q, cos[:, :1], sin[:, :1]), turn(k, cos, sin), v).transpose(1, 2).flatten(2, 3)
    expected = attn.to_out[0](expected)
    torch.testing.assert_close(mine, expected)
    assert [plan.grid for plan in installed.plans] == [GRID, GRID] and installed.plans[0] is not installed.plans[1]
    assert sum(keys_by_layer(settings, GRID, GRID[1:], 2)) == 48 * 1.5 * 2


def turn(x, cos, sin):
    """RoPE as complex numbers: [B, heads, L, D], tables [1, L, 1, D]."""
    angle = torch.complex(cos[..., 0::2], sin[..., 1::2]).transpose(1, 2)
    return torch.view_as_real(torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous()) * angle).flatten(-2)


def test_a_row_of_a_new_kind_is_checked_planned_and_described(wan21, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through the tables as a run reads them; a kind that holds more is planned with more memory."""
    monkeypatch.setitem(KINDS, "own", Own)
    params = {"stage1": {}, "adapters": {}, "evaluation": {"reference_arm": "a"}, "generation": {}}
    arm = {"label": "a", "attention": {"kind": "own", "scale": 0.5}, "method": "freeswim"}
    row = checked_tables(params | {"arms": {"a": arm}}).arms["a"]
    assert "own (scale 0.5) attention" in method_of(row).describe(row)
    with pytest.raises(ParameterError, match=r"arms\.a\.attention\.kind: .*unknown attention kind 'owl'; known"):
        checked_tables(params | {"arms": {"a": arm | {"attention": {"kind": "owl"}}}})
    model = wan21.model()
    costs = Costs(architecture=load_architecture(model.path), model=model, device=find_device("h100"), share=0.5)
    plain, copying = (costs.forward_memory(model.target, 1, AttentionParams(kind=k)) for k in ("full", "own"))
    hidden = 48 * 32 * 4
    assert copying - plain == pytest.approx(400 * hidden, rel=0.05)


def test_the_kinds_that_there_are() -> None:
    assert {"full": Full, "window": Window, "gclf": Gclf}.items() <= KINDS.items()
    assert all(kind.name == name for name, kind in KINDS.items())
    assert kind_of(GclfSettings(pool=4)) == Gclf(pool=4) and kind_of(AttentionParams()) == Full()


def test_two_kinds_that_mean_different_things_by_one_field_are_refused() -> None:
    @dataclass(frozen=True)
    class Two(Frames):
        name: ClassVar[str] = "two"
        pool: int = 3

    with pytest.raises(TypeError, match="'two' declares its field 'pool'"):
        attention_params([Gclf, Two])
