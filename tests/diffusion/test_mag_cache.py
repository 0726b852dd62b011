"""MagCache: ratios as measured by hand, steps left out by the paper's rule, guidance's two passes each by its own."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import WanTransformer3DModel
from diffusers.hooks.mag_cache import nearest_interp
from torch import Tensor

from tests.passes import PASSES, passes, predictors, start
from vibe_pipeline.diffusion.flow import sigma_schedule
from vibe_pipeline.diffusion.mag_cache import Mag, found_ratios, read_ratios
from vibe_pipeline.diffusion.objectives import Predict
from vibe_pipeline.diffusion.sampling import denoise, guided
from vibe_pipeline.diffusion.step_cache import forget_steps, install_step_cache, remove_step_cache

STEPS = 8
CALLS = {"conditional": STEPS, "unconditional": 5}
INTERVAL = (0.55, 1.0)  # five of the eight levels


def clip(transformer: WanTransformer3DModel) -> Tensor:
    forget_steps(transformer)
    predict = guided(*passes(transformer), 3.0, INTERVAL)
    out = denoise(predict, start(), sigma_schedule(STEPS, 3.0, 0.7))
    forget_steps(transformer)
    return out


def by_the_rule(ratios: tuple[float, ...], tolerance: float, most: int, retain: float) -> list[bool]:
    """Which forwards are computed: the paper's algorithm, from the last computed one to every later one anew."""
    first = max(round(retain * len(ratios)) - 1, 0)
    computed, last = [], first
    for step in range(len(ratios)):
        since = [math_product(ratios[last + 1 : j + 1]) for j in range(last + 1, step + 1)]
        error = sum(abs(1 - product) for product in since)
        if step <= first or error > tolerance or len(since) > most:
            computed.append(True)
            last = max(step, first)
        else:
            computed.append(False)
    return computed


def math_product(numbers: tuple[float, ...]) -> float:
    return float(torch.tensor(numbers, dtype=torch.float64).prod())


@pytest.fixture
def calibrated(transformer) -> dict[str, tuple[float, ...]]:
    """Ratios of a clip; the transformer goes without a cache afterwards."""
    install_step_cache(transformer, Mag())
    clip(transformer)
    found = dict(found_ratios(transformer))
    remove_step_cache(transformer)
    return found


def test_a_calibration_changes_nothing_and_finds_what_is_measured_by_hand(transformer) -> None:
    """Mean over tokens of the blocks' residual's length, against that of the forward before of the same pass."""
    plain, seen = clip(transformer), []
    first = transformer.blocks[0].register_forward_pre_hook(lambda _, args: seen.append(args[0].clone()))
    last = transformer.blocks[-1].register_forward_hook(lambda _, args, out: seen.append(out - seen.pop()))
    order = list(PASSES)
    lengths: dict[str, list[Tensor]] = {name: [] for name in PASSES}

    def noting(name: str, predict: Predict) -> Predict:
        def within(x: Tensor, sigma: Tensor) -> Tensor:
            velocity = predict(x, sigma)
            lengths[name].append(seen.pop().norm(dim=-1))
            return velocity

        return within

    by_hand = guided(
        *(noting(name, predict) for name, predict in zip(order, predictors(transformer), strict=True)), 3.0, INTERVAL
    )
    denoise(by_hand, start(), sigma_schedule(STEPS, 3.0, 0.7))
    first.remove()
    last.remove()
    install_step_cache(transformer, Mag())
    assert torch.equal(clip(transformer), plain)
    found = found_ratios(transformer)
    assert {name: len(ratios) for name, ratios in found.items()} == CALLS
    for name, ratios in found.items():
        pairs = zip(lengths[name][1:], lengths[name], strict=False)
        assert ratios[0] == 1
        assert ratios[1:] == pytest.approx([float((after / before).mean()) for after, before in pairs], rel=1e-5)


def test_with_no_tolerance_not_a_bit_changes(transformer, calibrated) -> None:
    plain = clip(transformer)
    install_step_cache(transformer, Mag(tolerance=0.0, retain=0.0).with_ratios(calibrated, CALLS))
    assert torch.equal(clip(transformer), plain)


@pytest.mark.parametrize(("tolerance", "most", "retain"), [(0.06, 3, 0.2), (0.5, 2, 0.2), (9.0, 3, 0.4)])
def test_steps_are_left_out_by_the_rule_and_each_pass_by_its_own(transformer, tolerance, most, retain) -> None:
    ratios = {
        "conditional": (1.0, 1.3, 1.02, 0.99, 1.01, 0.9, 0.97, 0.99),
        "unconditional": (1.0, 0.98, 0.97, 1.2, 1.0),
    }
    cache = Mag(tolerance, most, retain)
    computed: dict[str, list[bool]] = {name: [] for name in PASSES}
    calls: list[int] = []
    transformer.blocks[-1].ffn.register_forward_hook(lambda *_: calls.append(1))
    install_step_cache(transformer, cache.with_ratios(ratios, CALLS))

    def noting(name: str, predict: Predict) -> Predict:
        def within(x: Tensor, sigma: Tensor) -> Tensor:
            calls.clear()
            velocity = predict(x, sigma)
            computed[name].append(bool(calls))
            return velocity

        return within

    both = [noting(name, predict) for name, predict in zip(PASSES, passes(transformer), strict=True)]
    for _ in range(2):  # a second clip takes nothing over
        forget_steps(transformer)
        for name in PASSES:
            computed[name].clear()
        denoise(guided(*both, 3.0, INTERVAL), start(), sigma_schedule(STEPS, 3.0, 0.7))
        for name in PASSES:
            assert computed[name] == by_the_rule(ratios[name], tolerance, most, retain)
            assert [i for i, done in enumerate(computed[name]) if not done] == cache.left_out(ratios[name])
    assert computed["conditional"] != computed["unconditional"][: len(computed["conditional"])]
    assert not all(computed["conditional"])


def test_a_step_that_is_left_out_adds_the_last_residual(transformer) -> None:
    """By hand, with whole forwards of the blocks in between."""
    install_step_cache(transformer, Mag(9.0, 1, 0.0).with_ratios({"conditional": (1.0,) * 4}, {"conditional": 4}))
    within = passes(transformer)[0]
    residuals: list[Tensor] = []
    entering: list[Tensor] = []
    transformer.norm_out.register_forward_pre_hook(lambda _, args: residuals.append(args[0] - entering[-1]))
    # What goes into the blocks: the patches, as the transformer flattens them.
    transformer.patch_embedding.register_forward_hook(lambda _, args, out: entering.append(out.flatten(2).mT))
    for sigma in (0.9, 0.8, 0.7, 0.6):
        within(start(), torch.tensor([sigma]))
    torch.testing.assert_close(residuals[1], residuals[0])
    torch.testing.assert_close(residuals[3], residuals[2])
    assert not torch.allclose(residuals[2], residuals[1])


def test_a_file_is_read_stretched_and_refused(tmp_path: Path) -> None:
    path = tmp_path / "ratios.json"
    ratios = (1.0, 1.1, 0.99, 1.01, 0.98, 0.97)
    path.write_text(json.dumps({"ratios": {"transformer": {"conditional": ratios, "unconditional": ratios}}}))
    assert read_ratios(path) == {"transformer": {"conditional": ratios, "unconditional": ratios}}
    for calls in (1, 2, 4, 6, 9, 20):
        stretched = Mag().with_ratios({"conditional": ratios}, {"conditional": calls}).own["conditional"]
        assert stretched == pytest.approx(nearest_interp(torch.tensor(ratios), calls).tolist())
    cache = Mag(ratios=path)
    assert cache.computed(6) == 6 - len(cache.left_out(ratios)) < Mag().computed(6) == 6
    assert not cache.calibrates and Mag().calibrates
    for content, said in (
        ("{", "holds no ratios of MagCache"),
        ('{"ratios": [1]}', "holds no ratios of MagCache"),
        ('{"ratios": {"transformer": {"conditional": [1.0, -1]}}}', "transformer, conditional, are not positive"),
        ('{"ratios": {"transformer": {"conditional": []}}}', "are not positive numbers"),
    ):
        path.write_text(content)
        with pytest.raises(ValueError, match=said):
            read_ratios(path)
    with pytest.raises(FileNotFoundError, match="leave ratios out, and a run writes one"):
        read_ratios(tmp_path / "other.json")
