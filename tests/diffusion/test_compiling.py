"""However many transformers a process had, the next one's blocks are compiled, and no memory of theirs is held."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from diffusers import WanTransformer3DModel

from vibe_pipeline.diffusion import compiling, lora
from vibe_pipeline.diffusion.lifetime import release

LIMIT = 2
"""In place of torch's 8, so that three transformers are enough."""


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """What torch.compile was given so far, in a process that has compiled nothing yet."""
    found: list[Any] = []

    def backend(graph: Any, inputs: Any) -> Any:
        found.append(graph)
        return graph.forward

    compiled = torch.compile
    monkeypatch.setattr(torch, "compile", lambda call, *a, **options: compiled(call, backend=backend))
    monkeypatch.setattr(compiling, "LIMIT", LIMIT)
    torch._dynamo.reset()
    with torch._dynamo.config.patch(recompile_limit=LIMIT):
        yield found
    torch._dynamo.reset()


def run(name: str) -> None:
    """A transformer with an adapter of its own, as each row of a run has, once forward."""
    made = WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=16,
        out_channels=16,
        text_dim=32,
        freq_dim=32,
        ffn_dim=32,
        num_layers=2,
    )
    lora.add_adapter(made, name, 2, 2.0, ("to_q",), 0)
    made.eval().compile_repeated_blocks()
    with torch.no_grad():
        made(torch.randn(1, 16, 1, 8, 8), torch.tensor([500.0]), torch.randn(1, 4, 32), return_dict=False)
    release(made)


def test_no_transformer_uses_up_the_limit_of_the_next(graphs: list[Any]) -> None:
    for count in range(1, LIMIT + 3):
        compiling.begin_compiling()
        run(f"row{count}")
        assert len(graphs) == count


def test_without_it_the_third_is_not_compiled(graphs: list[Any]) -> None:
    """What the other test rests on: torch says no more of it than a warning."""
    for count in range(LIMIT + 1):
        run(f"row{count}")
    assert len(graphs) == LIMIT


def test_the_limit_holds_every_shape_and_is_never_lowered(graphs: list[Any]) -> None:
    compiling.begin_compiling(shapes=3)
    assert torch._dynamo.config.recompile_limit == 3 * LIMIT
    compiling.begin_compiling()
    assert torch._dynamo.config.recompile_limit == 3 * LIMIT


def test_a_model_that_is_done_with_leaves_no_memory_in_torchs_hands(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the card, and page-locked beside it: the next arm's weights would come on top."""
    emptied: list[str] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: emptied.append("device"))
    monkeypatch.setattr(torch.accelerator, "empty_host_cache", lambda: emptied.append("main memory"))
    layer = torch.nn.Linear(2, 2)
    release(layer)
    assert emptied == ["device", "main memory"] and layer.weight.is_meta
