"""A row's way with clips longer than native: overlapping chunks that are denoised together."""

from typing import Annotated, Self

from pydantic import Field, PositiveInt, model_validator

from vibe_pipeline.diffusion.chunks import Blend, Chunk, cut_chunks
from vibe_pipeline.experiment.groups import Params

FRAMES = 4
"""Frames of video that a latent frame stands for, all but the first."""
PUBLISHED = 12 / 38
"""Overlap over chunk in StreamingT2V."""


class LongParams(Params):
    """Chunks of time; a clip that one chunk holds is made as without."""

    chunk: Annotated[int, Field(ge=5)] | None = Field(
        None, description="frames of video that are denoised at once, 4k + 1; None: as many as are native"
    )
    overlap: PositiveInt | None = Field(
        None,
        description="frames of video that neighbours share, a multiple of 4; None: a third of the chunk, as the 12 of "
        "38 of StreamingT2V, arXiv 2403.14773",
    )
    blend: Blend = Field(
        "random",
        description="random: at every step the overlap is cut at a frame drawn again, as published; linear: a fade",
    )

    @model_validator(mode="after")
    def _whole_latent_frames(self) -> Self:
        if self.chunk is not None and self.chunk % FRAMES != 1:
            near = self.chunk // FRAMES * FRAMES + 1
            raise ValueError(f"chunk {self.chunk}: Wan's VAE takes 4k + 1 frames; nearest {near}")
        if self.overlap is not None and self.overlap % FRAMES:
            near = max(1, round(self.overlap / FRAMES)) * FRAMES
            raise ValueError(f"overlap {self.overlap}: a latent frame is {FRAMES} frames of video; nearest {near}")
        return self

    def seen(self, frames: int, native: int) -> tuple[int, int]:
        """How many chunks a clip of so many frames of video has, and the frames of each, likewise.

        Raises:
            ValueError: The overlap is not shorter than a chunk.
        """
        chunks = self.chunks((frames - 1) // FRAMES + 1, native)
        return len(chunks), (chunks[0].stop - 1) * FRAMES + 1

    def frames(self, native: int) -> int:
        """Of a chunk, of video; `native` are the base's."""
        return native if self.chunk is None else self.chunk

    def chunks(self, frames: int, native: int) -> list[Chunk]:
        """Of a clip of so many latent frames.

        Raises:
            ValueError: The overlap is not shorter than a chunk.
        """
        length = (self.frames(native) - 1) // FRAMES + 1
        overlap = max(1, round(PUBLISHED * length)) if self.overlap is None else self.overlap // FRAMES
        return cut_chunks(frames, length, overlap)

    def words(self) -> str:
        """For the report."""
        length = "native" if self.chunk is None else f"{self.chunk}-frame"
        return f"{length} chunks, {'cut at random' if self.blend == 'random' else 'faded'} at every step"
