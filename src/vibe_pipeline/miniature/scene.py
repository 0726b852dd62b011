"""Scenes of the procedural world: what they hold, how they are named, drawn and held out."""

import hashlib
import itertools
import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

SHAPES = ("circle", "square", "triangle", "cross")
COLOURS = {
    "red": (0.82, 0.20, 0.18),
    "green": (0.22, 0.74, 0.26),
    "blue": (0.22, 0.36, 0.86),
    "yellow": (0.84, 0.80, 0.22),
    "purple": (0.74, 0.26, 0.82),
    "cyan": (0.22, 0.80, 0.82),
    "white": (0.82, 0.82, 0.82),
}

PATTERNS = ("plain", "striped", "dotted")
BACKGROUNDS = {
    "maroon": (0.42, 0.20, 0.22),
    "forest": (0.20, 0.38, 0.22),
    "navy": (0.19, 0.22, 0.44),
    "olive": (0.40, 0.38, 0.19),
    "indigo": (0.33, 0.20, 0.44),
    "gray": (0.34, 0.34, 0.34),
}

TEXTURES = ("ribbed", "woven")
DIRECTIONS = {"left": (-1.0, 0.0), "right": (1.0, 0.0), "up": (0.0, -1.0), "down": (0.0, 1.0)}
TEMPLATE = "a {pattern} {colour} {shape} moving {direction} over {texture} {background}"
CYCLES = (2.5, 8.0)
OBJECT_CYCLES = (5.0, 8.0)


@dataclass(frozen=True)
class Scene:
    """One scene; lengths in frame heights, angles and phases in radians, x right and y down."""

    shape: str
    colour: str
    pattern: str
    direction: str
    background: str
    texture: str
    centre: tuple[float, float]
    radius: float
    travel: float
    object_angle: float
    object_cycles: float
    object_phase: tuple[float, float]
    texture_angle: float
    texture_cycles: float
    texture_phase: tuple[float, float]
    grain_seed: int

    @property
    def caption(self) -> str:
        """The caption, in the closed vocabulary of :func:`vocabulary`."""
        return TEMPLATE.format(**asdict(self))


def vocabulary() -> list[str]:
    """Every word a caption can hold."""
    words = {w for w in TEMPLATE.split() if "{" not in w}
    for group in (SHAPES, COLOURS, PATTERNS, BACKGROUNDS, TEXTURES, DIRECTIONS):
        words.update(group)
    return sorted(words)


def parse_caption(caption: str) -> dict[str, str]:
    """The attributes a caption names.

    Raises:
        ValueError: The caption is not one this world can render; the message says which word.
    """
    keys = [w.strip("{}") if "{" in w else None for w in TEMPLATE.split()]
    words = caption.split()
    allowed = {
        "pattern": PATTERNS,
        "colour": COLOURS,
        "shape": SHAPES,
        "direction": DIRECTIONS,
        "texture": TEXTURES,
        "background": BACKGROUNDS,
    }
    if len(words) != len(keys):
        raise ValueError(f"caption {caption!r} has {len(words)} words, this world's have {len(keys)}: {TEMPLATE!r}")
    found: dict[str, str] = {}
    for key, word, fixed in zip(keys, words, TEMPLATE.split(), strict=True):
        if key is None and word != fixed:
            raise ValueError(f"caption {caption!r}: expected {fixed!r} where {word!r} stands")
        if key is not None:
            if word not in allowed[key]:
                raise ValueError(f"caption {caption!r}: {word!r} is not a {key}; one of {', '.join(allowed[key])}")
            found[key] = word
    return found


def sample_scene(rng: np.random.Generator, **fixed: Any) -> Scene:
    """Draw a scene; keyword arguments fix attributes (for instance those of a caption)."""

    def uniform(low: float, high: float) -> float:
        return float(rng.uniform(low, high))

    def octaves(low: float, high: float) -> float:
        """Every scale as often as any other."""
        return math.exp(uniform(math.log(low), math.log(high)))

    def phases() -> tuple[float, float]:
        return uniform(0, 2 * math.pi), uniform(0, 2 * math.pi)

    drawn: dict[str, Any] = {
        "shape": str(rng.choice(SHAPES)),
        "colour": str(rng.choice(list(COLOURS))),
        "pattern": str(rng.choice(PATTERNS)),
        "direction": str(rng.choice(list(DIRECTIONS))),
        "background": str(rng.choice(list(BACKGROUNDS))),
        "texture": str(rng.choice(TEXTURES)),
        "centre": (uniform(0.44, 0.56), uniform(0.44, 0.56)),
        "radius": uniform(0.18, 0.22),
        "travel": uniform(0.30, 0.40),
        "object_angle": uniform(-0.1, 0.1) + math.pi / 4 * int(rng.integers(4)),
        "object_cycles": octaves(*OBJECT_CYCLES),
        "object_phase": phases(),
        "texture_angle": uniform(-0.1, 0.1) + math.pi / 4 * int(rng.integers(4)),
        "texture_cycles": octaves(*CYCLES),
        "texture_phase": phases(),
        "grain_seed": int(rng.integers(2**31)),
    }
    return Scene(**(drawn | fixed))


def all_captions() -> list[str]:
    """Every caption of the world, 4032 of them."""
    groups = {
        "pattern": PATTERNS,
        "colour": COLOURS,
        "shape": SHAPES,
        "direction": DIRECTIONS,
        "texture": TEXTURES,
        "background": BACKGROUNDS,
    }
    return [TEMPLATE.format(**dict(zip(groups, words, strict=True))) for words in itertools.product(*groups.values())]


def is_held_out(caption: str) -> bool:
    """Whether the base never sees this caption while training: one in sixteen, by hash."""
    return int(hashlib.sha256(caption.encode()).hexdigest()[:8], 16) % 16 == 0


def sample_scenes(rng: np.random.Generator, count: int, held_out: bool) -> list[Scene]:
    """Draw scenes whose captions are all held out, or all not; held-out captions do not repeat.

    Raises:
        ValueError: More held-out captions than there are.
    """
    if held_out and count > (most := sum(is_held_out(c) for c in all_captions())):
        raise ValueError(f"{count} held-out captions were asked for; this world has {most}")
    scenes: list[Scene] = []
    captions: set[str] = set()
    while len(scenes) < count:
        scene = sample_scene(rng)
        if is_held_out(scene.caption) == held_out and not (held_out and scene.caption in captions):
            scenes.append(scene)
            captions.add(scene.caption)
    return scenes


def scene_of_prompt(prompt: str, seed: int) -> Scene:
    """A true scene for a caption, the same for the same (prompt, seed)."""
    digest = hashlib.sha256(f"{seed}\n{prompt}".encode()).digest()
    return sample_scene(np.random.default_rng(int.from_bytes(digest[:8], "big")), **parse_caption(prompt))
