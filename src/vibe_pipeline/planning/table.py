"""A plan as text that a person reads."""

from vibe_pipeline.io.text_table import aligned
from vibe_pipeline.planning.plan import Plan
from vibe_pipeline.planning.plan_rows import PlanRow

COLUMNS = ("", "what", "each", "tokens", "keys/query", "TFLOP each", "time each", "time all", "memory", "disk")


def format_plan(plan: Plan) -> str:
    """The rows as a table, and what they rest on."""
    lines = aligned([COLUMNS, *map(_cells, plan.rows)], left=3)
    lines.insert(1, "-" * len(lines[0]))
    return "\n".join([*_header(plan), "", *lines, "", *_footer(plan)])


def _header(plan: Plan) -> list[str]:
    numbers = ", ".join(f"{part} {_parameters(count)}" for part, count in plan.parameters.items())
    return [
        f"{plan.model}: {plan.architecture}",
        f"parameters: {numbers}; weights as published about {size(plan.weights_gb, 0)}",
        f"device {plan.device}, {plan.device_memory_gb:.0f} GB, {_rate(plan)}",
        *plan.notes,
    ]


def _parameters(count: float) -> str:
    """In billions, or millions where that says more: the miniature has few."""
    return f"{count / 1e9:.2f} B" if count >= 1e8 else f"{count / 1e6:.2f} M"


def size(gigabytes: float, digits: int = 1) -> str:
    """Gigabytes as people say them: little is said in megabytes and not as 0.

    Args:
        gigabytes: Of memory or disk.
        digits: After the point, of what is said in gigabytes.
    """
    if gigabytes >= 0.1:
        return f"{gigabytes:.{digits if gigabytes >= 1 else 1}f} GB"
    return f"{gigabytes * 1e3:.2g} MB" if gigabytes > 0 else "-"


def _rate(plan: Plan) -> str:
    """What the times rest on."""
    return "at the speed measured on it, if nothing else runs" if plan.measured else plan.speed


def _footer(plan: Plan) -> list[str]:
    fits = plan.peak_memory_gb <= plan.device_memory_gb
    largest = max(plan.rows, key=lambda row: row.memory_gb)
    levers = "gradient_checkpointing, micro_batch, model.offload (true, or blocks), model.tile"
    verdict = "fits" if fits else f"DOES NOT FIT: see {levers}"
    return [
        f"all of it, one after another: {duration(plan.hours * 3600)}; disk {size(plan.disk_gb)} at most",
        "of which " + ", ".join(_share(plan, name) for name in plan.hours_by_part),
        f"peak memory {size(plan.peak_memory_gb)} ({largest.group} {largest.name}) on {plan.device_memory_gb:.0f} GB: "
        f"{verdict}",
        "clips are counted as raw 8-bit frames; lossless files are smaller. Not counted: shards of latents, "
        "checkpoints, the page",
    ]


def _share(plan: Plan, part: str) -> str:
    """What a part of the run takes of the whole."""
    hours = plan.hours_by_part[part]
    return f"{part} {hours / plan.hours:.1%} ({duration(hours * 3600)})"


def _cells(row: PlanRow) -> tuple[str, ...]:
    tokens, keys = (f"{n:,.0f}" if n is not None else "-" for n in (row.tokens, row.keys_per_query))
    work = f"{row.teraflops:{',.1f' if row.teraflops >= 0.1 else '.1g'}}" if row.teraflops else "-"
    return (
        f"{row.group} {row.name}",
        row.label,
        f"{row.count:,} x {row.unit}",
        tokens,
        keys,
        work,
        duration(row.seconds),
        duration(row.hours * 3600),
        size(row.memory_gb),
        size(row.disk_gb),
    )


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    for limit, divisor, unit in ((1, 1e-3, "ms"), (120, 1, "s"), (7200, 60, "min"), (172_800, 3600, "h")):
        if seconds < limit:
            return f"{seconds / divisor:.3g} {unit}" if seconds else "-"
    return f"{seconds / 86_400:.1f} d"
