"""Every row tried once, in small, before a run."""

from vibe_pipeline.rehearsal.refusals import require_rehearsable
from vibe_pipeline.rehearsal.stage import Line, RehearsalError, format_line, rehearse, require_rehearsed

__all__ = ["Line", "RehearsalError", "format_line", "rehearse", "require_rehearsable", "require_rehearsed"]
