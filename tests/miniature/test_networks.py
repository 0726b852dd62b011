"""The miniature's tokenizer and text encoder, as the checkpoint carries them."""

from vibe_pipeline.miniature.base import tokenize
from vibe_pipeline.miniature.networks import TEXT_LENGTH, build_text_encoder, build_tokenizer
from vibe_pipeline.miniature.scene import all_captions


def test_every_caption_fits_and_no_word_is_unknown() -> None:
    tokenizer = build_tokenizer()
    ids, mask = tokenize(all_captions()[::50])
    assert ids.shape[1] == TEXT_LENGTH
    assert int(mask.sum(1).max()) == 10  # nine words and the end
    assert not (ids == tokenizer.unk_token_id).any()
    assert (ids[mask == 0] == tokenizer.pad_token_id).all()
    assert tokenizer.decode(ids[0], skip_special_tokens=True) == all_captions()[0]
    assert build_text_encoder().config.vocab_size == len(tokenizer)
