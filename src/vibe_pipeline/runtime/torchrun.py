"""Whether torchrun or accelerate started this process, and as which of several."""

import os


def launched_outside() -> bool:
    """Whether torchrun or accelerate started this process as one of several, on one machine or more."""
    return all(k in os.environ for k in ("RANK", "MASTER_ADDR")) and int(os.environ.get("WORLD_SIZE", "1")) > 1


def is_follower() -> bool:
    """Whether another of these processes leads: it alone locks the project and tracks the run."""
    return launched_outside() and os.environ["RANK"] != "0"
