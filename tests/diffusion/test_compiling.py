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


def transformer_of(name: str) -> WanTransformer3DModel:
    """A transformer of two blocks with an adapter of its own, as each row of a run has."""
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
    return made.eval()


def forward(made: WanTransformer3DModel, width: int = 8) -> torch.Tensor:
    torch.manual_seed(0)
    return made(torch.randn(1, 16, 1, 8, width), torch.tensor([500.0]), torch.randn(1, 4, 32), return_dict=False)[0]


def run(name: str) -> None:
    """A transformer once forward."""
    made = transformer_of(name)
    made.compile_repeated_blocks()
    with torch.no_grad():
        forward(made)
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


def test_a_training_waits_for_one_graph_of_a_shape(graphs: list[Any]) -> None:
    """Without the gradient that the first block's input is made to have there are two."""
    plain = transformer_of("one")
    forward(plain).sum().backward()
    expected = {name: value.grad.clone() for name, value in lora.adapter_parameters(plain, "one").items()}
    compiling.begin_compiling()
    plain.compile_repeated_blocks()
    forward(plain)
    assert len(graphs) == 2
    trained = transformer_of("one")
    trained.load_state_dict(plain.state_dict())
    compiling.compile_for_training(trained, shapes=1)
    forward(trained).sum().backward()
    assert len(graphs) == 3
    for name, value in lora.adapter_parameters(trained, "one").items():
        torch.testing.assert_close(value.grad, expected[name])
    assert any(value.abs().max() > 0 for value in expected.values())


def test_what_runs_eagerly_waits_for_no_graph_and_loses_none(graphs: list[Any]) -> None:
    made = transformer_of("one")
    compiling.compile_for_training(made, shapes=2)
    with torch.no_grad():
        whole = forward(made)
        assert len(graphs) == 1
        with compiling.eagerly(made):
            forward(made, width=12)
            torch.testing.assert_close(forward(made), whole)
        assert len(graphs) == 1
        forward(made)
        assert len(graphs) == 1
        forward(made, width=12)
    assert len(graphs) == 2


def test_a_model_that_is_done_with_leaves_no_memory_in_torchs_hands(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the card, and page-locked beside it: the next arm's weights would come on top."""
    emptied: list[str] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: emptied.append("device"))
    monkeypatch.setattr(torch.accelerator, "empty_host_cache", lambda: emptied.append("main memory"))
    layer = torch.nn.Linear(2, 2)
    release(layer)
    assert emptied == ["device", "main memory"] and layer.weight.is_meta
