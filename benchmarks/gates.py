"""Must the miniature's detail be imagined, and can it be? The gates of its world, of its pixel network and of its VAE.

make gates                                   # the shipped network and VAE
python benchmarks/gates.py --train           # a network trained here and now, and the time that took
"""

import argparse
import json
import time
from functools import partial
from pathlib import Path

import torch
from tqdm import tqdm

import vibe_pipeline  # noqa: F401  before diffusers: it makes torchvision importable
from vibe_pipeline.diffusion.super_resolution import load_network
from vibe_pipeline.evaluation.gates import Gate, holdable, inferable, invisible, read_vae
from vibe_pipeline.miniature.pairs import Pairs, Sizes, draw_pairs
from vibe_pipeline.miniature.pixel_network import Network, PixelTraining, train_pixel_network

MOST_CPU_SECONDS = 900
SHIPPED = Path(__file__).parents[1] / "data/06_models"


def trained(training: Pairs, steps: int) -> tuple[Network, Gate]:
    """A network trained on these pairs, and whether it kept within its fifteen minutes of one core."""
    begun = time.process_time()
    network = train_pixel_network(training.native, training.target, PixelTraining(steps=steps))
    return network, Gate("inferable: seconds of one core it took", time.process_time() - begun, MOST_CPU_SECONDS)


def world_gates(sizes: Sizes, network: Network | None, steps: int) -> list[Gate]:
    """Gates 1 and 2; without a network one is trained."""
    training, held_out = draw_pairs(sizes, held_out=False), draw_pairs(sizes, held_out=True)
    first, seconds = invisible(training, held_out, sizes.band), []
    if network is None:
        network, spent = trained(training, steps)
        seconds.append(spent)
    return [first, inferable(network, held_out, sizes.band), *seconds]


def main() -> int:
    defaults = Sizes()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vae", type=Path, default=SHIPPED / "base/vae", help="a diffusers folder")
    parser.add_argument("--network", type=Path, default=SHIPPED / "pixel_network_x3.safetensors")
    parser.add_argument("--train", action="store_true", help="train a network in place of reading one")
    parser.add_argument("--steps", type=int, default=PixelTraining().steps, help="of that training")
    parser.add_argument("--only", choices=("world", "vae"), help="gates 1 and 2, or gate 3, alone")
    parser.add_argument("--training-scenes", type=int, default=defaults.training_scenes)
    parser.add_argument("--held-out-scenes", type=int, default=defaults.held_out_scenes)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    try:  # before minutes are spent on the other gates
        vae = None if args.only == "world" else read_vae(args.vae)
        network = None if args.train or args.only == "vae" else load_network(args.network)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    sizes = Sizes(training_scenes=args.training_scenes, held_out_scenes=args.held_out_scenes)
    gates = [] if args.only == "vae" else world_gates(sizes, network, args.steps)
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
