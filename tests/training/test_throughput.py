"""What a log line says of speed: the device's peak by its name, and seconds over all of a training's starts."""

import time

import pytest

from vibe_pipeline.training.throughput import Window, peak_teraflops


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H200", 989),
        ("NVIDIA H20", 148),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA GeForce RTX 4090", 165),
        ("NVIDIA RTX A4000", None),
        ("Radeon", None),
    ],
)
def test_peaks_by_name(name: str, peak: float | None) -> None:
    assert peak_teraflops(name) == peak


def test_a_log_line_divides_by_the_seconds_of_all_its_steps() -> None:
    """Hours, so that what the test itself takes does not show."""
    before = Window(begun=time.monotonic() - 7200)
    before.add({"loss": 1.0}, 4, 400, 8e15)
    resumed = Window(**before.state())  # what a checkpoint holds
    resumed.begun -= 1800
    resumed.add({"loss": 3.0}, 6, 600, 12e15)
    line, blind = resumed.record(peak=4.0, memory=1.5), resumed.record(None, 1.5)
    expected = {"loss": 2.0, "images_per_second": 10 / 9000, "tokens_per_second": 1000 / 9000, "seconds": 9000}
    expected |= {"teraflops_per_second": 20e3 / 9000, "share_of_peak": 20e3 / 9000 / 4, "peak_memory_gb": 1.5}
    assert line == pytest.approx(expected, rel=1e-3)
    assert set(line) - set(blind) == {"share_of_peak"}
