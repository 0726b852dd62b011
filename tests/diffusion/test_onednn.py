"""The VAE by oneDNN gives what it gave."""

import pytest
import torch
from diffusers import AutoencoderKLWan
from torch import nn

from vibe_pipeline.diffusion.models import decode_video, encode_video, find_model, load_vae
from vibe_pipeline.diffusion.onednn import use_onednn


@pytest.mark.parametrize(("stride", "padding", "groups"), [(1, 0, 1), ((1, 2, 2), (0, 1, 1), 1), (2, 1, 2)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_convolution_is_the_same(stride, padding, groups, dtype):
    torch.manual_seed(0)
    layer = nn.Conv3d(4, 6, 3, stride, padding, groups=groups).to(dtype)
    x = torch.randn(2, 4, 5, 8, 9, dtype=dtype)
    expected = layer(x)
    use_onednn(layer)
    assert torch.allclose(layer(x), expected, atol=1e-5)


def test_the_vae_is_the_same(wan22):
    ours = load_vae(find_model(str(wan22.path)), torch.device("cpu"))
    plain = AutoencoderKLWan.from_pretrained(wan22.path, subfolder="vae").eval()
    x = torch.rand(1, 3, 5, 32, 32, generator=torch.Generator().manual_seed(0))
    latent = encode_video(ours, x)
    assert torch.allclose(latent, encode_video(plain, x), atol=1e-4)
    assert torch.allclose(decode_video(ours, latent), decode_video(plain, latent), atol=1e-4)
    assert all("_conv_forward" in m.__dict__ for m in ours.modules() if isinstance(m, nn.Conv3d))


def test_latents_are_plain_rows(wan22):
    """As files of latents ask for; the convolutions' own layout has channels last."""
    vae = load_vae(find_model(str(wan22.path)), torch.device("cpu"))
    assert encode_video(vae, torch.rand(2, 3, 5, 32, 32)).is_contiguous()
