"""Native clips, enlarged and encoded once for all arms: files of latents, named by all that determines them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from vibe_pipeline.diffusion.models import find_model, pick_device
from vibe_pipeline.experiment.model import ModelParams
from vibe_pipeline.io.files import write_atomic
from vibe_pipeline.io.keys import content_key, folder_fingerprint


@dataclass(frozen=True)
class NativeLatents:
    """Where latents of native clips are kept.

    Attributes:
        folder: One file a clip and way of enlarging it.
        settings: All but the clip and the way of enlarging that determines a latent.
    """

    folder: Path
    settings: Mapping[str, Any]

    @classmethod
    def of(cls, model: ModelParams, root: Path) -> "NativeLatents":
        """Those of a model's VAE at its target size, below the folder of all clips."""
        settings = {
            "vae": folder_fingerprint(find_model(model.path).path / "vae"),
            "precision": [model.vae_dtype, model.tile, pick_device(model.device).type],
            "target": model.target.model_dump(),
        }
        return cls(root / "latents", settings)

    def once(self, row: Mapping[str, Any], enlarge: str, make: Callable[[], Tensor]) -> Tensor:
        """A row's latent [1, C, t, h, w]: read if it was made before, else made and kept.

        Args:
            row: With `native_key`, the content of its native clip; without one nothing is kept.
            enlarge: What is enlarged, the clip's pixels or its latent.
            make: Gives it.
        """
        if not row.get("native_key"):
            return make()
        file = self.folder / f"{content_key(self.settings, enlarge, row['native_key'])}.safetensors"
        try:
            return load_file(file)["latent"]
        except (OSError, SafetensorError, KeyError):  # not there yet, or damaged: it is made again
            latent = make()
        write_atomic(file, lambda temporary: save_file({"latent": latent.contiguous()}, temporary))
        return latent
