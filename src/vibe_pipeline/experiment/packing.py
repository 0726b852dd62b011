"""Images of mixed sizes in one sequence."""

from pydantic import Field, PositiveInt

from vibe_pipeline.experiment.groups import Params


class PackingParams(Params):
    """Images of all buckets, one behind the other in a sequence; each sees itself and its own caption alone."""

    tokens: PositiveInt = Field(
        description="most tokens of a sequence, which is one forward; at least those of the largest image"
    )
