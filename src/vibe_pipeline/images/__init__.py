"""Training images: finding them with their captions, checking them all, and cutting them to size."""

from vibe_pipeline.images.account import require_usable
from vibe_pipeline.images.check import check_images
from vibe_pipeline.images.crop import aspect_buckets, nearest_bucket, resize_and_crop
from vibe_pipeline.images.find import find_images
from vibe_pipeline.images.folder import MetadataError
from vibe_pipeline.images.reading import BadImage, load_rgb

__all__ = [
    "BadImage",
    "MetadataError",
    "aspect_buckets",
    "check_images",
    "find_images",
    "load_rgb",
    "nearest_bucket",
    "require_usable",
    "resize_and_crop",
]
