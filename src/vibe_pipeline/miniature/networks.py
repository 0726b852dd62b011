"""The miniature's networks: the very classes of Wan, small enough for two CPU cores."""

import json
import math
from pathlib import Path

import torch
from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler, WanPipeline, WanTransformer3DModel
from diffusers.models.autoencoders.autoencoder_kl_wan import WanAttentionBlock, WanResidualBlock
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from torch import nn
from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

from vibe_pipeline.miniature.scene import vocabulary

LATENT_CHANNELS = 32
TEXT_LENGTH = 16


def build_vae() -> AutoencoderKLWan:
    """A Wan2.2-style residual VAE: 4x4x4 compression, 32 channels, 3.4 M parameters.

    The encoder halves time and both axes of space in its first block: 2x2x2 pixels of three colours are 24 numbers,
    so fewer than 24 channels there lose detail of what moves before the network has looked at it.
    """
    vae = AutoencoderKLWan(
        base_dim=24,
        decoder_base_dim=16,
        z_dim=LATENT_CHANNELS,
        dim_mult=[1, 4, 4],
        num_res_blocks=1,
        temperal_downsample=[True, True],
        is_residual=True,
        scale_factor_temporal=4,
        scale_factor_spatial=4,
        latents_mean=[0.0] * LATENT_CHANNELS,
        latents_std=[1.0] * LATENT_CHANNELS,
    )
    _initialise_vae(vae)
    return vae


def _initialise_vae(vae: AutoencoderKLWan) -> None:
    """Variance-preserving weights, blocks that begin as the identity, and little posterior noise.

    PyTorch's default convolution weights shrink the signal at every layer; the first latents would be
    twenty times smaller than the unit posterior noise, and training would stall at a grey picture.
    """
    for module in vae.modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
            nn.init.zeros_(module.bias)
    for module in vae.modules():
        if isinstance(module, WanResidualBlock):
            nn.init.zeros_(module.conv2.weight)
        elif isinstance(module, WanAttentionBlock):
            nn.init.zeros_(module.proj.weight)
    nn.init.zeros_(vae.quant_conv.weight[vae.config.z_dim :])
    nn.init.constant_(vae.quant_conv.bias[vae.config.z_dim :], -6.0)


def build_transformer() -> WanTransformer3DModel:
    """A Wan transformer of 6 layers, 4 heads of 48, patch 1x2x2; 3.9 M parameters."""
    model = WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=4,
        attention_head_dim=48,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        text_dim=64,
        freq_dim=256,
        ffn_dim=768,
        num_layers=6,
    )
    _initialise(model)
    return model


def _initialise(model: WanTransformer3DModel) -> None:
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv3d):
            nn.init.xavier_uniform_(module.weight.flatten(1))
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for linear in (model.condition_embedder.text_embedder.linear_1, model.condition_embedder.text_embedder.linear_2):
        nn.init.normal_(linear.weight, std=1.4 / math.sqrt(linear.in_features))
    nn.init.zeros_(model.proj_out.weight)


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A word tokenizer over the world's closed vocabulary; nothing to download."""
    words = ["<pad>", "</s>", "<unk>", *vocabulary()]
    tokenizer = Tokenizer(WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=TEXT_LENGTH,
    )


def build_text_encoder() -> UMT5EncoderModel:
    """A umT5 encoder of 2 layers, width 64."""
    config = UMT5Config(
        vocab_size=len(build_tokenizer()),
        d_model=64,
        d_kv=16,
        d_ff=192,
        num_layers=2,
        num_heads=4,
        dropout_rate=0.0,
        feed_forward_proj="gated-gelu",
        pad_token_id=0,
        eos_token_id=1,
    )
    model = UMT5EncoderModel(config)
    nn.init.normal_(model.shared.weight, std=1.0)
    return model


def save_pipeline(
    vae: AutoencoderKLWan, transformer: WanTransformer3DModel, text_encoder: UMT5EncoderModel, folder: Path
) -> None:
    """Write a diffusers folder, 16-bit safetensors, that `WanPipeline.from_pretrained` loads."""
    WanPipeline(
        tokenizer=build_tokenizer(),
        text_encoder=text_encoder.to(torch.float16),
        vae=vae.to(torch.float16),
        transformer=transformer.to(torch.float16),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
    ).save_pretrained(folder)
    forget_origin(folder)


def forget_origin(folder: Path) -> None:
    """Take out of the configurations where their parts were loaded from: a path of the machine that trained them."""
    for file in folder.rglob("*.json"):
        content = json.loads(file.read_text())
        if isinstance(content, dict) and content.pop("_name_or_path", None) is not None:
            file.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")
