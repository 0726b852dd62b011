"""Must the miniature's detail be imagined, and can it be? The gates of its world, and of a VAE for it.

.venv/bin/python benchmarks/gates.py [--vae data/06_models/base/vae] [--network network.pth] [--json out.json]
"""

import argparse
import json
import time
from functools import partial
from pathlib import Path

import torch
from tqdm import tqdm

from vibe_pipeline.miniature.gates import Gate, Sizes, draw_pairs, holdable, inferable, invisible, read_vae
from vibe_pipeline.miniature.pixel_network import PixelTraining

MOST_CPU_SECONDS = 900


def world_gates(sizes: Sizes, steps: int, network_path: Path | None) -> list[Gate]:
    """Gates 1 and 2, and whether the network kept within its fifteen minutes of one core."""
    training, held_out = draw_pairs(sizes, held_out=False), draw_pairs(sizes, held_out=True)
    first = invisible(training, held_out, sizes.band)
    begun = time.process_time()
    second, network = inferable(training, held_out, PixelTraining(steps=steps), sizes.band)
    seconds = Gate("inferable: seconds of one core it took", time.process_time() - begun, MOST_CPU_SECONDS)
    if network_path:
        torch.save({"params": network.state_dict()}, network_path)
    return [first, second, seconds]


def main() -> int:
    defaults = Sizes()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vae", type=Path, help="a diffusers folder; without it gate 3 is not measured")
    parser.add_argument("--only-vae", action="store_true", help="gate 3 alone; needs --vae")
    parser.add_argument("--network", type=Path, help="write the pixel network's weights here")
    parser.add_argument("--steps", type=int, default=PixelTraining().steps, help="of the pixel network")
    parser.add_argument("--training-scenes", type=int, default=defaults.training_scenes)
    parser.add_argument("--held-out-scenes", type=int, default=defaults.held_out_scenes)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.only_vae and not args.vae:
        parser.error("--only-vae measures a VAE: give its folder with --vae")
    try:
        vae = read_vae(args.vae) if args.vae else None  # before minutes are spent on the other gates
    except ValueError as error:
        parser.error(str(error))
    sizes = Sizes(training_scenes=args.training_scenes, held_out_scenes=args.held_out_scenes)
    gates = [] if args.only_vae else world_gates(sizes, args.steps, args.network)
    if vae is not None:
        gates += holdable(vae, sizes, progress=partial(tqdm, desc="through the VAE", unit="scene"))
    low, high = sizes.band
    print(f"{sizes.native} to {sizes.target} pixels, band {low:.0f} to {high:.0f} cycles per frame height, ", end="")
    print(f"{sizes.held_out_scenes} held-out scenes, fitted on {sizes.training_scenes} others")
    print(f"{'gate':<56}{'value':>9}{'goal':>11}")
    for gate in gates:
        goal = f"{'at most' if gate.at_most else 'at least'} {gate.goal:g}"
        print(f"{gate.name:<56}{gate.value:>9.3f}  {goal:<14}{'ok' if gate.passed else 'MISSED'}")
    if args.json:
        args.json.write_text(json.dumps([vars(g) | {"passed": g.passed} for g in gates], indent=1) + "\n")
    return int(not all(g.passed for g in gates))


if __name__ == "__main__":
    raise SystemExit(main())
