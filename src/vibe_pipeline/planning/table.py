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
    numbers = ", ".join(f"{part} {count / 1e9:.2f}" for part, count in plan.parameters.items())
    return [
        f"{plan.model}: {plan.architecture}",
        f"parameters, billions: {numbers}; weights as published about {plan.weights_gb:.0f} GB",
        f"device {plan.device}, {plan.device_memory_gb:.0f} GB, {_rate(plan)}",
        *plan.notes,
    ]


def _rate(plan: Plan) -> str:
    """What the times rest on."""
    return "at the speed measured on it, if nothing else runs" if plan.measured else plan.speed


def _footer(plan: Plan) -> list[str]:
    fits = plan.peak_memory_gb <= plan.device_memory_gb
    largest = max(plan.rows, key=lambda row: row.memory_gb)
    levers = "gradient_checkpointing, micro_batch, model.offload (true, or blocks), model.tile"
    verdict = "fits" if fits else f"DOES NOT FIT: see {levers}"
    return [
        f"all of it, one after another: {duration(plan.hours * 3600)}; disk {plan.disk_gb:.1f} GB at most",
        "of which " + ", ".join(_share(plan, name) for name in plan.hours_by_part),
        f"peak memory {plan.peak_memory_gb:.1f} GB ({largest.group} {largest.name}) on {plan.device_memory_gb:.0f} GB: "
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
    work = f"{row.teraflops:,.1f}" if row.teraflops else "-"
    return (
        f"{row.group} {row.name}",
        row.label,
        f"{row.count:,} x {row.unit}",
        tokens,
        keys,
        work,
        duration(row.seconds),
        duration(row.hours * 3600),
        f"{row.memory_gb:.1f} GB",
        f"{row.disk_gb:.1f} GB",
    )


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    for limit, divisor, unit in ((1, 1e-3, "ms"), (120, 1, "s"), (7200, 60, "min"), (172_800, 3600, "h")):
        if seconds < limit:
            return f"{seconds / divisor:.3g} {unit}" if seconds else "-"
    return f"{seconds / 86_400:.1f} d"
