"""Processor, memory, disk, network and GPU of the machine while a run lasts, on its parent run."""

import logging
import os

from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

from vibe_pipeline.tracking.runs import PARENT, URI

SECONDS = 10.0


def start_monitor(seconds: float = SECONDS) -> SystemMetricsMonitor | None:
    """Watch the machine for the parent run; None if nothing is tracked.

    A daemon thread: it ends with the process whatever happens, and with the run if that is closed elsewhere.
    GPUs are watched where nvidia-ml-py is installed.
    """
    if PARENT not in os.environ:
        return None
    # Its messages of every start and stop are of no use to anyone.
    logging.getLogger("mlflow.system_metrics").setLevel(logging.WARNING)
    monitor = SystemMetricsMonitor(os.environ[PARENT], sampling_interval=seconds, tracking_uri=os.environ[URI])
    monitor.start()
    return monitor
