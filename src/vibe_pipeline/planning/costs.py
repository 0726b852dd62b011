"""Time and memory of the single jobs of a run: a training step, a forward, a VAE call, a prompt."""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from types import ModuleType
from typing import TYPE_CHECKING

from vibe_pipeline.diffusion.attention import kind_of
from vibe_pipeline.diffusion.attention.choice import BLOCK_SPARSE
from vibe_pipeline.diffusion.attention_flops import Which, count_attention
from vibe_pipeline.diffusion.crops import working_grid
from vibe_pipeline.diffusion.module_flops import VaeFlops, text_flops
from vibe_pipeline.diffusion.regions import RegionSchedule
from vibe_pipeline.diffusion.rope import rope_of
from vibe_pipeline.experiment.attention import AttentionParams
from vibe_pipeline.experiment.model import ClipSize
from vibe_pipeline.experiment.rope import RopeParams
from vibe_pipeline.experiment.training import LoraParams, TrainParams
from vibe_pipeline.generation.methods.forwards import Counted
from vibe_pipeline.planning.counts import Adapter, Counts
from vibe_pipeline.planning.crops import crop_tokens, images_of_sequence
from vibe_pipeline.planning.devices import Device
from vibe_pipeline.planning.measure_costs import network_teraflops, writing_seconds
from vibe_pipeline.planning.rates import ASSUMED_SHARE, COMPILE_SECONDS, READ_BYTES, Rates, rates_of
from vibe_pipeline.planning.work import Work

if TYPE_CHECKING:
    pass

NO_ROPE = RopeParams()
CONTEXT_BYTES = 1.0e9
"""What CUDA itself takes of the device."""
STATE_BYTES = {"adamw": 8.0, "adamw_8bit": 2.0}
"""AdamW's two moments of each trained number; 8 bit as bitsandbytes keeps them."""


def _memory() -> ModuleType:
    """What counts bytes; it runs the modules, and with torch and peft takes longer to import than a plan to make."""
    from vibe_pipeline.planning import memory

    return memory


@dataclass(frozen=True, kw_only=True)
class Costs(Counts):
    """Work and peak memory (bytes) of one model on one device.

    Attributes:
        device: What it runs on.
        share: Of the device's peak that every kernel is said to reach; None: each has its own of `planning.rates`.
    """

    device: Device
    share: float | None = None

    def forward(
        self,
        size: ClipSize,
        attention: Counted,
        adapters: Sequence[Adapter] = (),
        compiled: bool = False,
        regions: RegionSchedule | None = None,
    ) -> Work:
        """One sample through the transformer, with adapters beside it if there are any, by `torch.compile` or not.

        With `regions` the active tokens alone, over the keys of all.
        """
        layers = [self.layers(adapter) for adapter in adapters]
        active = None if regions is None else regions.tokens(math.prod(self.architecture.grid(size)))
        flops = self.flops(size, attention, layers, self.first_frames, active=active)
        rates = self.rates(self.model.dtype)
        linear = rates.forward_compiled if compiled else rates.forward
        if regions is not None and not self.kernels(size, attention).keys().isdisjoint(
            BLOCK_SPARSE
        ):  # tiles with masks stand in
            attending = flops.attention_forward / rates.masked
        else:
            attending = self._attention(size, attention, flops.attention_forward, rates)
        return Work(flops.forward / 1e12, {"transformer": (flops.linear_forward / linear + attending) / 1e12})

    def attention(self, size: ClipSize, attention: Counted, adapters: Sequence[Adapter], which: Which) -> Work:
        """Of one sample's forward its self- or its cross-attention, with projections and adapters: not compiled."""
        layers = [self.layers(adapter) for adapter in adapters]
        grid, text, rates = self.architecture.grid(size), self.model.text_length, self.rates(self.model.dtype)
        config, keys = self.architecture.transformer, self._keys_by_layer(size, attention)
        linear, scores = count_attention(config, grid, text, keys, layers, which)
        attending = scores / rates.sdpa if which == "attn2" else self._self_attention(size, attention, scores, rates)
        return Work((linear + scores) / 1e12, {"transformer": (linear / rates.forward + attending) / 1e12})

    def kept_memory(self, size: ClipSize, batch: int, passes: int) -> float:
        """Bytes of the keys, values and outputs that region-adaptive sampling keeps of so many guidance passes."""
        config, tokens = self.architecture.transformer, math.prod(self.architecture.grid(size))
        width = config["num_attention_heads"] * config["attention_head_dim"]
        output = config["out_channels"] * math.prod(config["patch_size"])
        numbers = 2 * config["num_layers"] * width + output
        return float(batch * passes * tokens * numbers * self.number_bytes)

    def step(
        self, size: ClipSize, attention: AttentionParams, row: TrainParams, stage1: LoraParams | None = None
    ) -> Work:
        """One optimiser step of a LoRA training, over all its images and processes; on a fused `stage1`, if any."""
        frozen = [self.layers(adapter) for adapter in self.beside(stage1)]
        adapters = [*frozen, replace(self.layers(row.lora), trained=True)]
        tokens = crop_tokens(self.architecture, size, row)
        packed = row.packing is not None
        flops = self.flops(size, attention, adapters, per_token=packed, tokens=tokens)
        again = int(row.gradient_checkpointing)
        linear = flops.linear_forward * (1 + again) + flops.linear_backward
        scores = flops.attention_forward * (1 + again) + flops.attention_backward
        rates = self.rates("bfloat16" if row.autocast else self.model.dtype).of_a_step()
        rest = rates.forward_compiled if row.compile else rates.forward
        # A crop's tokens and its context's all see each other.
        attending = self._attention(size, attention, scores, rates) if tokens is None else scores / rates.sdpa
        seconds = linear / rest + attending
        work = Work((linear + scores) / 1e12, {"transformer": seconds / 1e12 / row.processes})
        return work * (row.batch_size * row.forwards * images_of_sequence(self.architecture, size, row))

    def rates(self, dtype: str) -> Rates:
        """TFLOP/s by kernel, for a transformer that computes in `dtype`."""
        if self.share is None and dtype != "float32":
            return rates_of(self.device)[0]
        return Rates.same(self.device.teraflops(dtype) * (self.share or ASSUMED_SHARE))

    @property
    def assumed(self) -> frozenset[str]:
        """Which of the rates nobody has measured."""
        return rates_of(self.device)[1]

    def _attention(self, size: ClipSize, attention: Counted, operations: float, rates: Rates) -> float:
        """Seconds of attention, 1e-12."""
        keys, text = self.keys(size, attention), self.model.text_length
        own = operations * keys / (keys + text)  # the rest is cross-attention
        return self._self_attention(size, attention, own, rates) + (operations - own) / rates.sdpa

    def _self_attention(self, size: ClipSize, attention: Counted, operations: float, rates: Rates) -> float:
        """Of self-attention alone: kernels compute more than has to be, each at its own rate."""
        rate = {
            "sdpa": rates.sdpa,
            "masked": rates.masked,
            "flex": rates.flex,
            "flash": rates.flash if self.device.flash else rates.flex,
            "gather": rates.masked,
        }
        keys = self.keys(size, attention)
        slow = sum(computed / keys / rate[name] for name, computed in self.kernels(size, attention).items())
        return operations * slow

    def step_memory(
        self, size: ClipSize, attention: AttentionParams, row: TrainParams, stage1: LoraParams | None = None
    ) -> float:
        """Peak bytes of a training step on each device; on a fused `stage1`, if there is one."""
        batch = row.micro_batch or -(-row.batch_size // row.processes)
        tokens = crop_tokens(self.architecture, size, row)
        if packed := row.packing is not None:
            batch, tokens = 1, row.packing.tokens  # sequences go through one by one; the fullest decides
        grid = self.architecture.grid(size) if tokens is None else working_grid(tokens)
        beside = next(iter(self.beside(stage1)), None)
        copies = kind_of(attention).copies
        key = ("train", grid, batch, row.lora, row.autocast, row.gradient_checkpointing, beside, copies, packed)
        activations = self.kept(
            key,
            lambda: _memory().training_activations(
                architecture=self.architecture,
                grid=grid,
                batch=batch,
                text_length=self.model.text_length,
                lora=row.lora,
                dtype=self.dtype,
                autocast=row.autocast,
                checkpointing=row.gradient_checkpointing,
                beside=beside,
                copies=copies,
                per_token=packed,
            ),
        )
        per_number = 8 + STATE_BYTES[row.optimiser.kind] + (4 if row.ema_decay else 0)
        trained = self.adapter_parameters(row.lora) * per_number
        frozen = self.weights("transformer") + sum(map(self.adapter_bytes, self.beside(stage1)))
        return CONTEXT_BYTES + frozen + trained + activations

    def masks(self, size: ClipSize, attention: Counted) -> float:
        """Bytes of the mask of one size, kept from its first step on."""
        hidden = self.kernels(size, attention).get("masked", 0.0)
        return hidden * math.prod(self.architecture.grid(size))

    def forward_memory(self, size: ClipSize, batch: int, attention: Counted, rope: RopeParams = NO_ROPE) -> float:
        """Bytes of a forward beside weights."""
        grid, text = self.architecture.grid(size), self.model.text_length
        copies = rope_of(rope).copies or kind_of(attention).copies
        return self.kept(
            ("forward", grid, batch, copies),
            lambda: _memory().inference_activations(
                architecture=self.architecture,
                grid=grid,
                batch=batch,
                text_length=text,
                dtype=self.dtype,
                per_token=self.first_frames,
                copies=copies,
            ),
        )

    def kept_in_attention(self, size: ClipSize, attention: Counted) -> float:
        """Bytes that all layers keep between forwards, of one clip and one guidance pass."""
        config = self.architecture.transformer
        kept = kind_of(attention).kept_bytes(self.architecture.grid(size), config["num_attention_heads"])
        return config["num_layers"] * kept

    def encode(self, size: ClipSize) -> Work:
        """A clip or an image to its latent."""
        return self._vae(size, decode=False)

    def decode(self, size: ClipSize) -> Work:
        """A latent to its clip."""
        return self._vae(size, decode=True)

    def vae_memory(self, size: ClipSize, decode: bool) -> float:
        """Bytes of a VAE call beside weights."""
        latent = self.architecture.latent(size)
        return self.kept(
            ("vae memory", latent, decode),
            lambda: _memory().vae_activations(self.architecture, latent, self.model.tile, self.vae_dtype, decode),
        )

    def text(self) -> Work:
        """One prompt."""
        length = self.model.text_length
        teraflops = self.kept(("text",), lambda: text_flops(self.architecture.text_encoder, length)) / 1e12
        return Work(teraflops, {"text encoder": teraflops / self.rates(self.model.dtype).forward})

    def text_memory(self) -> float:
        """Peak bytes of encoding prompts: the encoder is alone on the device."""
        length = self.model.text_length
        working = self.kept(
            ("text memory",),
            lambda: _memory().text_activations(self.architecture, length, self.dtype),
        )
        return CONTEXT_BYTES + self.weights("text_encoder") + working

    def write(self, size: ClipSize, beside: float) -> Work:
        """Writing one clip, beside whose successor is made for so many seconds: what of it is waited for."""
        return Work(parts={"writing clips": max(0.0, writing_seconds(size) - beside)})

    def load(self, *parts: str) -> Work:
        """Reading the weights of parts of the model."""
        return Work(parts={"loading, compiling": sum(map(self.weights, parts)) / READ_BYTES})

    def compiling(self, size: ClipSize, attention: Counted, blocks: bool, shapes: int = 1) -> Work:
        """What compiling takes, all in all, before the first call of each of so many sizes; flex and flash always do.

        Blocks that attend by one plan are compiled once; full attention is compiled for any size at the second.
        """
        kind, layers = kind_of(attention), self.architecture.transformer["num_layers"]
        variants = len({kind.variant(layer) for layer in range(layers)})
        kernels = self.kernels(size, attention).keys()
        if not blocks and kernels.isdisjoint(BLOCK_SPARSE):
            return Work()
        graphs = variants * (min(shapes, 2) if kernels == {"sdpa"} else shapes)
        return Work(parts={"loading, compiling": graphs * COMPILE_SECONDS})

    def _vae(self, size: ClipSize, decode: bool) -> Work:
        latent = self.architecture.latent(size)
        calls = self.once(("vae calls",), lambda: VaeFlops(self.architecture.vae, self.model.tile))
        call = calls.decode if decode else calls.encode
        teraflops = self.kept(("vae", latent, decode), lambda: call(latent)) / 1e12
        return Work(teraflops, {"VAE": teraflops / self._vae_rate(decode)})

    def _vae_rate(self, decode: bool) -> float:
        """TFLOP/s; 32-bit convolutions run as TF32, as torch has them by default."""
        dtype = self.model.vae_dtype
        if self.share is not None:
            return self.device.teraflops(dtype, convolutions=True) * self.share
        rates = rates_of(self.device)[0]
        names = ("decode", "decode_half") if decode else ("encode", "encode_half")
        return getattr(rates, names[dtype != "float32"])

    def networks(self, size: ClipSize, extra: Collection[str]) -> Work:
        """Networks of the measures that `evaluation.extra_measures` names, on one clip, in 32 bit."""
        return convolutions(self, network_teraflops(size, extra), "float32", "measures")


def convolutions(costs: Costs, teraflops: float, dtype: str, part: str) -> Work:
    """A network of convolutions that nobody measured, as a part of the run."""
    rate = costs.device.teraflops(dtype, convolutions=True) * (costs.share or ASSUMED_SHARE)
    return Work(teraflops, {part: teraflops / rate})
