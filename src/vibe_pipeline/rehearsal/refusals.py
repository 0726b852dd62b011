"""Runs that a rehearsal cannot come before in the same process."""

from vibe_pipeline.diffusion.models import pick_device
from vibe_pipeline.runtime.torchrun import launched_outside


def require_rehearsable(device: str, runner: str) -> None:
    """Refuse where the processes of the run come before a rehearsal, or could not work after it.

    Args:
        device: `model.device`.
        runner: Name of Kedro's runner.

    Raises:
        ValueError: Says what to run instead.
    """
    if launched_outside():
        raise ValueError("run.rehearse: the processes of torchrun cannot rehearse; run `kedro vibe rehearse` before")
    if "ParallelRunner" in runner and pick_device(device).type == "cuda":
        raise ValueError(
            "run.rehearse: a rehearsal takes hold of the GPU, which ParallelRunner's processes then cannot; run "
            "`kedro vibe rehearse` before"
        )
