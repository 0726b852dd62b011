"""Captions that the text encoder would cut: told before anything is encoded."""

import pandas as pd
from diffusers.pipelines.wan.pipeline_wan import prompt_clean
from transformers import AutoTokenizer

from vibe_pipeline.diffusion.models import WanCheckpoint

BATCH = 256


def check_captions(
    usable: pd.DataFrame, quarantine: pd.DataFrame, model: WanCheckpoint, length: int
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Move images whose captions have too many tokens to the quarantine; nothing is cut in silence.

    Args:
        usable, quarantine: From `check_images`.
        model: Whose tokenizer counts, end mark included.
        length: Most tokens: what captions are padded to.

    Returns:
        The two, sorted by file_name; reason `caption_too_long`.
    """
    tokenizer = AutoTokenizer.from_pretrained(model.path, subfolder="tokenizer")
    captions = [prompt_clean(caption) for caption in usable["caption"]]
    counts: list[int] = []
    for start in range(0, len(captions), BATCH):
        counts += map(len, tokenizer(captions[start : start + BATCH]).input_ids)
    tokens = pd.Series(counts, index=usable.index, dtype="int64")
    bad = tokens > length
    moved = pd.DataFrame(
        {
            "file_name": usable.loc[bad, "file_name"],
            "reason": "caption_too_long",
            "value": [f"{count} tokens, model.text_length is {length}" for count in tokens[bad]],
        },
        dtype="str",
    )
    quarantine = pd.concat([quarantine, moved]).sort_values("file_name", ignore_index=True)
    return usable[~bad].reset_index(drop=True), quarantine
