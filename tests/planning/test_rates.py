"""Times of the plan against what an H100 took: the rates, divided out of docs/benchmarks.md, give those times again."""

import pytest

from vibe_pipeline.diffusion.attention import choice
from vibe_pipeline.experiment.adapters import AdapterParams
from vibe_pipeline.experiment.arms import ArmParams
from vibe_pipeline.experiment.attention import AttentionParams
from vibe_pipeline.experiment.model import ClipSize, ModelParams
from vibe_pipeline.experiment.training import TrainParams
from vibe_pipeline.planning import counts
from vibe_pipeline.planning.architecture import load_architecture
from vibe_pipeline.planning.costs import Costs
from vibe_pipeline.planning.devices import DEVICES, find_device
from vibe_pipeline.planning.measure_costs import writing_seconds
from vibe_pipeline.planning.rates import ASSUMED, H100, Rates, rates_of, said_of
from vibe_pipeline.planning.score_rows import LEVELS
from vibe_pipeline.training.validation import SIGMAS

MODEL = "Wan-AI/Wan2.2-TI2V-5B-Diffusers"
NATIVE, TARGET = ({"height": h, "width": w, "frames": 121} for h, w in ((704, 1280), (1408, 2560)))
IMAGE = ClipSize(height=1536, width=2752)
GCLF = AttentionParams(kind="gclf")


def costs(share: float | None = None, device: str = "h100", **changes) -> Costs:
    model = ModelParams(path=MODEL, native=NATIVE, target=TARGET, dtype="bfloat16", tile=512, **changes)
    return Costs(architecture=load_architecture(MODEL), model=model, device=find_device(device), share=share)


@pytest.mark.parametrize(("compiled", "measured"), [(False, 0.428), (True, 0.271)])
def test_a_training_step_takes_what_it_took(compiled: bool, measured: float) -> None:
    row = AdapterParams(label="x", start="base", compile=compiled)
    found = costs().step(IMAGE, row.attention, row)
    assert found.seconds == pytest.approx(measured, rel=0.05) and set(found.parts) == {"transformer"}


def test_a_block_takes_what_it_took_with_full_attention_and_with_gclf() -> None:
    """348 and 341 ms, less what TMA takes off: 249 to 218 ms of attention."""
    of = costs()
    full, gclf = (of.forward(of.model.target, a).seconds / 30 for a in (AttentionParams(), GCLF))
    assert full == pytest.approx(0.348, rel=0.03)
    assert gclf == pytest.approx(0.341 - 0.025, rel=0.10)
    assert of.forward(of.model.target, GCLF, compiled=True).seconds < 30 * gclf


def test_the_vae_takes_what_it_took() -> None:
    frames = ClipSize(height=1408, width=2560, frames=33), ClipSize(height=1408, width=2560, frames=9)
    for dtype, decode, encode in (("float32", 14.8, 1.3), ("bfloat16", 9.8, 0.8)):
        of = costs(vae_dtype=dtype)
        assert of.decode(frames[0]).seconds == pytest.approx(decode, rel=0.02)
        assert of.encode(frames[1]).seconds == pytest.approx(encode, rel=0.02)


def test_a_share_of_peak_goes_for_every_kernel_instead() -> None:
    of = costs(share=0.5)
    work = of.forward(of.model.target, AttentionParams())
    assert work.seconds == pytest.approx(work.teraflops / (989 * 0.5), rel=1e-6)
    assert said_of(of.device, 0.5) == "every kernel at 50% of dense peak, assumed"


def test_other_cards_are_said_to_be_assumed() -> None:
    assert rates_of(find_device("h100")) == (H100, ASSUMED) and "measured rate" in said_of(find_device("h100"), None)
    for name in set(DEVICES) - {"h100"}:
        _, assumed = rates_of(find_device(name))
        assert assumed == frozenset(vars(Rates.same(1.0))) and "not measured here" in said_of(find_device(name), None)
    half = rates_of(find_device("a100"))[0]
    assert half.sdpa / H100.sdpa == pytest.approx(312 / 989)


def test_the_kernel_is_the_one_that_runs() -> None:
    of = costs()
    assert of.kernels(IMAGE, GCLF) == {"masked": 1.25 * 48 * 86}
    ((name, keys),) = of.kernels(of.model.target, GCLF).items()
    assert name == "flex" and of.keys(of.model.target, GCLF) < keys < 1.15 * of.keys(of.model.target, GCLF)
    assert of.kernels(of.model.target, AttentionParams()) == {"sdpa": 31 * 44 * 80}


def test_a_clip_is_written_while_the_next_is_made() -> None:
    of, size = costs(), ClipSize(**TARGET)
    whole = writing_seconds(size)
    assert of.write(size, beside=0.0).seconds == whole and of.write(size, beside=whole + 1).seconds == 0
    assert of.write(size, beside=whole - 3).seconds == pytest.approx(3)


def test_what_the_plan_repeats_of_torchs_side_is_the_same() -> None:
    assert len(SIGMAS) == LEVELS
    assert TrainParams().validate_every is None and ArmParams(label="x").guidance_scale == 5


def test_cards_without_kernels_of_flash_attention_take_as_long_as_with_flex(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether the package is installed beside the plan says nothing of the card that is planned for."""

    def hours(device: str, installed: bool) -> float:
        for module in (choice, counts):
            monkeypatch.setattr(module, "flash_installed", lambda: installed)
        of = costs(device=device)
        return of.forward(of.model.target, GCLF).seconds

    assert hours("h100", True) < 0.9 * hours("h100", False)
    assert hours("a100", True) == pytest.approx(hours("a100", False))
