"""Mutations of the package: each breaks one thing that a figure depends on, and some test must fail.

Anchors are short pieces of one line, so that they survive moves; `run_mutations.py` looks for them in the whole package
where the file named no longer holds them.
"""

from typing import NamedTuple

FLOW = ("tests/diffusion/test_flow.py",)
OBJECTIVES = ("tests/diffusion/test_objectives.py",)
SAMPLING = ("tests/diffusion/test_sampling.py",)
ATTENTION = ("tests/diffusion/test_attention.py",)
T3 = ("tests/diffusion/test_t3.py",)
FREELONG = ("tests/diffusion/test_freelong.py",)
ADASPA = ("tests/diffusion/test_adaspa.py",)
OWN = ("tests/diffusion/test_own_weights.py",)
INSTALL = ("tests/diffusion/test_attention_install.py",)
FREESWIM = ("tests/diffusion/test_freeswim.py",)
LORA = ("tests/diffusion/test_lora.py",)
MODELS = ("tests/diffusion/test_models.py",)
ENCODE = ("tests/diffusion/test_encode.py",)
RENDER = ("tests/generation/test_second_pass.py", "tests/generation/test_render.py")
KEYS = ("tests/experiment/test_content_keys.py",)
SCORES = ("tests/evaluation/test_measured_values.py",)
LOOP = ("tests/training/test_one_step.py", "tests/training/test_loop.py")
STAGES = ("tests/training/test_one_step.py", "tests/training/test_stages.py")
CACHE = ("tests/images/test_camera.py", "tests/images/test_cache.py")
DETAIL = ("tests/evaluation/metrics/test_detail.py", "tests/evaluation/metrics/test_measures.py")
MEASURES = ("tests/evaluation/metrics/test_measures.py",)
HIGH_RESOLUTION = ("tests/evaluation/metrics/test_high_resolution.py",)
FRECHET = ("tests/evaluation/metrics/test_frechet.py",)
STATISTICS = ("tests/evaluation/test_statistics.py",)
CLAIMS = ("tests/evaluation/test_claims.py",)
READINGS = ("tests/evaluation/test_readings.py",)
ESTIMATES = ("tests/evaluation/test_estimates.py",)
TOTALS = ("tests/vbench/test_totals.py",)
COMPOSITES = ("tests/evaluation/test_composites.py",)
SR_FRAME = ("tests/diffusion/test_super_resolution.py",)
FUSED = ("tests/diffusion/test_lora_differences.py",)
POWER = ("tests/evaluation/test_power.py",)
SEQUENTIAL = ("tests/evaluation/test_sequential.py",)
EARLIER = ("tests/evaluation/test_earlier_looks.py",)


class Mutation(NamedTuple):
    """One change of one file.

    Attributes:
        file: Below src/vibe_pipeline.
        old: Text that is there exactly once.
        new: What stands there instead.
        tests: Files or tests of which one must fail.
        breaks: What the change does, in words.
    """

    file: str
    old: str
    new: str
    tests: tuple[str, ...]
    breaks: str


DENOISER, ARMS, CLIPS = "generation/denoiser.py", "generation/render.py", "generation/clip_cache.py"
EXPERTS = "generation/experts.py"
JOB, TRAIN, STAGE = "training/job.py", "training/loop.py", "training/stages.py"
GATHERING, MEASURE = "evaluation/metrics/gathering.py", "evaluation/measure.py"
TEMPORAL = "evaluation/metrics/temporal.py"

NAMED_BY_THE_ISSUE = [
    (DENOISER, "self.sampling.sigmas[0].expand", "self.sampling.sigmas[-1].expand", RENDER, "second pass starts clean"),
    (DENOISER, "self.sampling.sigmas[0].expand", "self.sampling.sigmas[1].expand", RENDER, "second pass starts lower"),
    (
        DENOISER,
        "texts.ensure([*prompts, params.negative_prompt])",
        'params = params.model_copy(update={"negative_prompt": ""})\n'
        "        texts.ensure([*prompts, params.negative_prompt])",
        RENDER,
        "negative prompt ignored",
    ),
    (
        EXPERTS,
        "native = self.model.native",
        "native = self.model.target",
        RENDER,
        "window of the target grid at inference",
    ),
    (
        STAGE,
        "token_grid(checkpoint, native.height, native.width)",
        "token_grid(checkpoint, job.model.target.height, job.model.target.width)",
        STAGES,
        "window of the target grid in training",
    ),
    (
        "generation/clip_settings.py",
        "arm.flow_shift or model.flow_shift",
        "model.flow_shift",
        RENDER,
        "an arm's own flow shift ignored",
    ),
    (JOB, "seed * 1_000_003 + step", "seed * 1_000_003", LOOP, "same noise and sigma in every step"),
    (
        TRAIN,
        "job.loss(predict, parts, noise, sigma, weight)",
        "job.loss(predict, parts, noise, sigma, torch.ones_like(weight))",
        LOOP,
        "loss unweighted",
    ),
    (TRAIN, "sigma, row.sigma_shift, row.logit_mean", "sigma, 1.0, row.logit_mean", LOOP, "bell of another shift"),
    (
        JOB,
        "shift=row.sigma_shift,",
        "shift=1.0,",
        LOOP,
        "training sigmas unshifted",
    ),
    ("training/optim.py", '"weight_decay": params.weight_decay', '"weight_decay": 0.0', LOOP, "no weight decay"),
    (TRAIN, "job.row.optimiser.clip_norm or math.inf", "math.inf", LOOP, "no gradient clipping"),
    ("images/encode.py", "*bucket.low, blur)", "*bucket.low)", CACHE, "stage-1 images not blurred"),
    ("images/encode.py", "*bucket.native, blur)", "*bucket.native)", CACHE, "pixel degradation without the camera"),
    (
        "evaluation/metrics/measures.py",
        "Setting(Grid(height, width), band,",
        "Setting(Grid(height, width), (0.0, band[0]),",
        MEASURES,
        "band measures in another band",
    ),
    (
        TEMPORAL,
        "weight = before.static[rows] * step.static[rows]",
        "weight = np.ones_like(step.static[rows])",
        MEASURES,
        "flicker without its mask",
    ),
]

DIFFUSION = [
    ("diffusion/flow.py", "(1 - s) * x0 + s * noise", "s * x0 + (1 - s) * noise", FLOW, "noise and clean swapped"),
    ("diffusion/flow.py", "shift * u / (1 + (shift - 1) * u)", "shift * u / (1 + shift * u)", FLOW, "shift off by one"),
    (
        "diffusion/flow.py",
        "grid = training_grid(shift)\n    if below",
        "grid = training_grid(1.0)\n    if below",
        FLOW,
        "sample_sigma unshifted",
    ),
    ("diffusion/flow.py", "(bell(sigma) - grid.min())", "bell(sigma)", FLOW, "bell without its minimum at 0"),
    ("diffusion/flow.py", r'f"{seed}\n{prompt}"', 'f"{seed}"', FLOW, "noise does not depend on the prompt"),
    ("diffusion/flow.py", r'f"{seed}\n{prompt}"', 'f"{prompt}"', FLOW, "noise does not depend on the seed"),
    ("diffusion/flow.py", "torch.linspace(strength, 0", "torch.linspace(1, 0", FLOW, "strength ignored"),
    ("diffusion/flow.py", "[steps - kept :]", "[: kept + 1]", FLOW, "share of the steps from the wrong end"),
    (
        "diffusion/flow.py",
        "randn(count, generator=generator)\n        return shift_sigma(torch.sigmoid(mean + std * normal), shift)",
        "randn(count, generator=generator)\n        return torch.sigmoid(mean + std * normal)",
        FLOW,
        "logit-normal sigmas unshifted",
    ),
    (
        "diffusion/objectives.py",
        "(x0_hat - x0).float()",
        "(x0_hat - degraded).float()",
        OBJECTIVES,
        "HFATO towards the degraded latent",
    ),
    (
        "diffusion/objectives.py",
        "x_sigma = add_noise(degraded,",
        "x_sigma = add_noise(x0,",
        OBJECTIVES,
        "HFATO noises the clean latent",
    ),
    (
        "diffusion/objectives.py",
        "return _weighted_mean((velocity - (noise - x0))",
        "return _weighted_mean((velocity - (x0 - noise))",
        OBJECTIVES,
        "velocity's sign",
    ),
    ("diffusion/objectives.py", "sum(weights[name] * value", "sum(value", OBJECTIVES, "objectives' weights ignored"),
    (
        "diffusion/objectives.py",
        "int(h * factor), int(w * factor)",
        "int(h * factor), w",
        OBJECTIVES,
        "degradation along one axis only",
    ),
    (
        "diffusion/objectives.py",
        'else {"align_corners": False}',
        'else {"align_corners": True}',
        OBJECTIVES,
        "degradation aligned at the corners",
    ),
    (
        "diffusion/objectives.py",
        "for axis, length in ((-2, h), (-1, w)):",
        "for axis, length in ((-2, h), (-2, h)):",
        OBJECTIVES,
        "blur along one axis only",
    ),
    ("images/degradation.py", "degradation.std * noise", "noise", STAGES, "the degrading noise without its deviation"),
    (
        JOB,
        'found["degradation_noise"] = torch.randn((count, *shape), generator=generator)',
        'found["degradation_noise"] = torch.randn((count, *shape))',
        STAGES,
        "the degrading noise from no seed",
    ),
    (
        "diffusion/objectives.py",
        "per_sample * weight)",
        "per_sample * weight.mean())",
        OBJECTIVES,
        "one weight for the whole batch",
    ),
    (
        "diffusion/sampling.py",
        "free + scale * (conditional(x, sigma) - free)",
        "conditional(x, sigma) + scale * (conditional(x, sigma) - free)",
        SAMPLING,
        "guidance one too strong",
    ),
    (
        "diffusion/sampling.py",
        "free + scale * (conditional(x, sigma) - free)",
        "free + scale * (free - conditional(x, sigma))",
        SAMPLING,
        "guidance swapped",
    ),
    (
        "diffusion/sampling.py",
        "return hold_first_frame(x, first_frame)",
        "return x",
        SAMPLING,
        "first frame not held in the end",
    ),
    (
        "diffusion/sampling.py",
        "sigmas[i].expand(len(x))",
        "sigmas[i + 1].expand(len(x))",
        SAMPLING,
        "the model is told the next noise level",
    ),
    (
        "diffusion/attention/geometry.py",
        "max(length - 2 * half - 1, 0)",
        "max(length - half - 1, 0)",
        ATTENTION,
        "window not pushed inward at the far edge",
    ),
    (
        "diffusion/attention/geometry.py",
        "tiles.mean(dim=(4, 6))",
        "tiles.amax(dim=(4, 6))",
        ATTENTION,
        "pooled keys are maxima",
    ),
    (
        "diffusion/attention/kinds/window.py",
        "max(1, n // 2) for n in _sides",
        "max(1, n) for n in _sides",
        INSTALL,
        "half window is the whole native grid",
    ),
    (
        "diffusion/attention/kinds/window.py",
        "return (d_w, d_h) if turned",
        "return (d_h, d_w) if turned",
        INSTALL,
        "upright images get the lying window",
    ),
    (
        "diffusion/attention/kinds/gclf.py",
        "return self.pool",
        "return 0",
        INSTALL,
        "pool ignored",
    ),
    (
        "diffusion/attention/processor.py",
        "v.transpose(1, 2), installed.scale, **own)",
        "v.transpose(1, 2), None, **own)",
        INSTALL,
        "attention scale ignored",
    ),
    (
        "diffusion/attention/spectral.py",
        "(close.float() + low.flatten(1, 3))",
        "(far.float() + low.flatten(1, 3))",
        FREELONG,
        "high frequencies are the global pass's",
    ),
    (
        "diffusion/attention/spectral.py",
        "(2 * bins / stop).square()",
        "(bins / stop).square()",
        FREELONG,
        "the filter stops at twice the frequency",
    ),
    (
        "diffusion/attention/blocks.py",
        "spare = (recall > enough)",
        "spare = (recall < enough)",
        ADASPA,
        "heads that lose most give blocks away",
    ),
    (
        "diffusion/attention/blocks.py",
        "self.kind, scale, found.lse)",
        "self.kind, scale)",
        ADASPA,
        "a later search computes the log-sum-exp again",
    ),
    (
        "diffusion/attention/blocks.py",
        "(self.steps.guidance, self.layer), self.steps.step",
        "(self.layer,), self.steps.step",
        ADASPA,
        "both guidance passes share their blocks",
    ),
    (
        "diffusion/attention/steps.py",
        "self._counts.clear()",
        "pass",
        ADASPA,
        "a clip goes on with the steps of the one before",
    ),
    (
        "diffusion/attention/kinds/t3.py",
        "x.unflatten(axis, (-1, n) if dilated else (n, -1))",
        "x.unflatten(axis, (n, -1))",
        T3,
        "remote groups are contiguous, but counted as dilated ones",
    ),
    (
        "diffusion/attention/kinds/t3.py",
        "axes = zip(within, group, strict=True) if dilated else",
        "axes = zip(group, within, strict=True) if dilated else",
        T3,
        "remote groups are put back as contiguous ones",
    ),
    (
        "diffusion/attention/kinds/t3.py",
        "(1 if computed_once(grid, groups) else 2)",
        "2",
        T3,
        "T3's cost counts layer type 0 twice",
    ),
    (
        "diffusion/attention/kinds/t3.py",
        "return types[layer % len(types)]",
        "return types[0]",
        T3,
        "T3's layers are all of one type",
    ),
    (
        "diffusion/own_weights.py",
        "if coded := sorted(set(types.values()) - NUMBERS):",
        "if coded := []:",
        OWN,
        "weights of 8 bits without their scales are taken",
    ),
    (
        EXPERTS,
        "home, dtype, own, part",
        "home, dtype, None, part",
        ("tests/generation/test_render.py",),
        "an arm's own transformer is ignored",
    ),
    (
        "diffusion/attention/scales.py",
        "math.log(2 * native_tokens, native_tokens)",
        "math.log(native_tokens, 2 * native_tokens)",
        ATTENTION,
        "FreeSwim's scale inverted",
    ),
    (
        "diffusion/freeswim.py",
        "full = hidden_states.chunk(2)[1]",
        "full = hidden_states.chunk(2)[0]",
        FREESWIM,
        "cross-attention of the window path",
    ),
    ("diffusion/freeswim.py", "out[0].chunk(2)[0]", "out[0].chunk(2)[1]", FREESWIM, "FreeSwim keeps the full path"),
    ("diffusion/freeswim.py", "step % refresh_every == 0", "step == 0", FREESWIM, "FreeSwim never refreshes"),
    ("diffusion/lora.py", "lora_alpha=alpha", "lora_alpha=rank", LORA, "alpha ignored"),
    ("diffusion/lora.py", "for n in before], weight]", "for n in before], 1.0]", LORA, "adapter's weight ignored"),
    ("diffusion/lora.py", "torch.manual_seed(seed)", "torch.manual_seed(0)", LORA, "adapters share one seed"),
    (
        "diffusion/encode.py",
        "((values - mean) / std).cpu()",
        "(values / std - mean).cpu()",
        MODELS,
        "latents normalised in the wrong order",
    ),
    (
        "diffusion/models.py",
        "timestep[:, : height * width] = 0",
        "timestep[:, : height * width] = 1",
        MODELS + RENDER,
        "the held first frame is said to be noisy",
    ),
    ("diffusion/models.py", "1000 * sigma.float()", "999 * sigma.float()", MODELS + RENDER, "timesteps of 999"),
    (
        "diffusion/checkpoint.py",
        "tile * 3 // 4 // space * space",
        "tile // space * space",
        ("tests/generation/test_tiling.py",),
        "VAE tiles do not overlap",
    ),
    ("diffusion/models.py", "hidden * tokens.attention_mask[..., None]", "hidden", MODELS, "padding embedded"),
    ("diffusion/models.py", "if count > length:", "if count > length + 1:", MODELS, "captions one token too long"),
    (
        "diffusion/encode.py",
        "both.chunk(2, dim=1)[0]",
        "both.chunk(2, dim=1)[1]",
        MODELS,
        "the log of the variance is taken for the latent",
    ),
    (
        "diffusion/encode.py",
        "slice(1 + (k - 1) * CHUNK, 1 + k * CHUNK)",
        "slice((k - 1) * CHUNK, k * CHUNK)",
        ENCODE,
        "the first frame is in two chunks",
    ),
    (
        "diffusion/vae_tiles.py",
        "part = vae.blend_h(before[index], part, tiling.shared[1])",
        "part = part",
        ENCODE,
        "tiles are not blended along a row",
    ),
    (
        "diffusion/vae_tiles.py",
        "ratio = vae.spatial_compression_ratio // (vae.config.patch_size or 1)",
        "ratio = vae.spatial_compression_ratio",
        ENCODE,
        "tiles of the encoder are no larger than those of the decoder",
    ),
    (
        "planning/memory.py",
        "values = 3 * ((frames - 1)",
        "values = 0 * ((frames - 1)",
        ("tests/planning/test_memory.py",),
        "strips between tiles are not counted",
    ),
]

GENERATION = [
    (ARMS, "stage1 if arm.keep_stage1 else None", "stage1", RENDER, "stage 1 kept at inference"),
    (ARMS, "stage1 if arm.keep_stage1 else None", "None", RENDER, "the ablation that keeps stage 1 drops it"),
    (ARMS, "guidance_scale=params.native_guidance_scale,", "guidance_scale=1.0,", RENDER, "native guidance ignored"),
    (
        "generation/clip_settings.py",
        "arm.scheduler, arm.guidance_scale, arm.guidance_interval",
        "arm.scheduler, 1.0, arm.guidance_interval",
        RENDER,
        "an arm's guidance ignored",
    ),
    (
        "generation/clip_settings.py",
        "Sampling(sigmas, arm.scheduler,",
        'Sampling(sigmas, "euler",',
        RENDER,
        "an arm's solver ignored",
    ),
    (
        ARMS,
        "sigma_schedule(params.native_steps, model.flow_shift)",
        "sigma_schedule(params.native_steps, 1.0)",
        RENDER,
        "native schedule unshifted",
    ),
    (DENOISER, ".mul_(self.detail_transfer)", "", RENDER, "detail transfer is always whole"),
    (
        DENOISER,
        'seeded_noise(shape, r["prompt"], r["seed"])',
        'seeded_noise(shape, rows[0]["prompt"], r["seed"])',
        RENDER,
        "clips of a batch share the noise",
    ),
    (EXPERTS, 'f"extra_{i}", extra.weight)', 'f"extra_{i}")', RENDER, "extra adapters at full weight"),
    (
        "generation/clip_settings.py",
        "[model.text_length, generation.negative_prompt]",
        "[model.text_length]",
        KEYS,
        "key lacks negative prompt",
    ),
    (
        "generation/clip_settings.py",
        '"adapter": adapter.key if adapter else None',
        '"adapter": None',
        KEYS,
        "key lacks the adapter",
    ),
    (
        "generation/clip_settings.py",
        '        "flow_shift": model.flow_shift,\n',
        "",
        KEYS,
        "key lacks the model's flow shift",
    ),
    (ARMS, "        params.native_guidance_scale,\n", "", KEYS, "native key lacks the guidance"),
    (CLIPS, ', row.get("native_key")', "", KEYS, "key lacks the native clip"),
    (CLIPS, 'row["prompt"], row["seed"], row.get', 'row["prompt"], row.get', KEYS, "key lacks the seed"),
    (
        "generation/text_cache.py",
        "embedding[:used]",
        "embedding[: used - 1]",
        ("tests/generation/test_text_cache.py",),
        "the last token of a prompt is lost",
    ),
    (
        "images/resize.py",
        'mode="bicubic", align_corners=False)',
        'mode="bilinear", align_corners=False)',
        ("tests/images/test_resize.py", *RENDER),
        "second pass enlarges bilinearly",
    ),
]

TRAINING = [
    (
        JOB,
        "generator=generator,\n            mean",
        "generator=torch.Generator().manual_seed(0),\n            mean",
        LOOP,
        "same sigma in every step",
    ),
    ("training/optim.py", "torch.optim.AdamW(parameters", "torch.optim.Adam(parameters", LOOP, "coupled weight decay"),
    ("training/optim.py", "(step + 1) / max(1", "step / max(1", LOOP, "warm-up starts at 0"),
    (
        "training/optim.py",
        "math.cos(math.pi * step / params.steps)",
        "math.cos(math.pi * step / (params.steps + 1))",
        LOOP,
        "cosine does not reach 0",
    ),
    (
        TRAIN,
        '(losses["loss"] * share).backward()',
        'losses["loss"].backward()',
        ("tests/training/test_processes.py",),
        "micro-batches summed",
    ),
    (TRAIN, "row.seed), state.step, None)", "row.seed), 0, None)", LOOP, "a resumed run repeats its images"),
    (TRAIN, "        state.ema.copy_to(state.parameters)", "        pass", LOOP, "the average is not kept"),
    (
        "training/checkpoint.py",
        '("optimiser", state.optimiser.load_state_dict)',
        '("optimiser", lambda values: None)',
        LOOP,
        "a resumed run forgets its optimiser",
    ),
    (TRAIN, "enabled=row.autocast", "enabled=False", LOOP, "autocast ignored"),
    ("training/optim.py", "ema.restore(parameters)", "pass", LOOP, "training goes on from the average"),
    (
        "training/validation.py",
        "return len(noise) * sum(values)",
        "return sum(values)",
        (*LOOP, "tests/training/test_validation.py"),
        "held-out loss divided twice",
    ),
    (
        STAGE,
        "LatentCache(cache, held_out=True)",
        "LatentCache(cache)",
        STAGES,
        "held-out loss on training images",
    ),
    (STAGE, "if job.fused is not None:", "if False:", STAGES, "stage 2 starts from the base"),
    (JOB, "made = batch[self._made] if self._made else None", "made = None", STAGES, "pixel degradation ignored"),
    (STAGE, '"processes", "micro_batch"', '"seed", "processes", "micro_batch"', STAGES, "training key lacks the seed"),
    (
        STAGE,
        'cache["key"], settings',
        "settings",
        STAGES,
        "training key lacks the images",
    ),
    (
        "training/checkpoint.py",
        "path.replace(folder / PREVIOUS)",
        "path.unlink()",
        ("tests/training/test_checkpoint.py",),
        "no previous checkpoint",
    ),
]

IMAGES = [
    (
        "images/resize.py",
        "blur * pixels.shape[-2] / height",
        "blur",
        ("tests/images/test_resize.py",),
        "blur in pixels of the large picture",
    ),
    (
        "images/encode.py",
        "shrink(high, *bucket.native",
        "shrink(high, *bucket.low",
        CACHE,
        "pixel degradation to stage 1's size",
    ),
    ("images/cache.py", '            "camera_blur": data.camera_blur,\n', "", CACHE, "cache key lacks the blur"),
    (
        "images/account.py",
        "int(data.held_out_share * images)",
        "images",
        (*CACHE, "tests/images/test_nodes.py"),
        "held-out share ignored",
    ),
    ("images/cache.py", "if r.held_out == held_out]", "]", CACHE, "trains on held-out images"),
    (
        "images/cache.py",
        "default_rng([seed, epoch])",
        "default_rng(seed)",
        ("tests/images/test_batches.py",),
        "every epoch in one order",
    ),
    (
        "images/check.py",
        "elif facts.sha256 in kept:",
        "elif False:",
        ("tests/images/test_check.py",),
        "duplicates used twice",
    ),
    ("images/check.py", "if facts.reason:", "if False:", ("tests/images/test_check.py",), "quarantine ignored"),
    ("training/loop.py", "float(out_of_time())", "0.0", ("tests/training/test_loop.py",), "spent hours unnoticed"),
    ("planning/plan_rows.py", "shapes=low", "shapes=1", ("tests/planning/test_plan.py",), "one size of stills planned"),
    ("images/crop.py", "(cover[0] - height) // 2", "0", ("tests/images/test_crop.py",), "crop from the top"),
    (
        "images/crop.py",
        "bucket[1] / bucket[0] * height / width",
        "bucket[0] / bucket[1] * height / width",
        ("tests/images/test_crop.py", "tests/images/test_buckets.py"),
        "bucket of the turned picture",
    ),
    (
        "images/resize.py",
        'mode="bicubic", align_corners=False, antialias=True',
        'mode="bicubic", align_corners=False, antialias=False',
        ("tests/images/test_resize.py",),
        "aliasing when shrunk",
    ),
    (
        "images/degradation.py",
        "pairs = ((degraded, true),",
        "pairs = ((degraded, enlarged),",
        ("tests/images/test_nodes.py", *CACHE),
        "degradation check against the wrong latent",
    ),
]

EVALUATION = [
    ("evaluation/metrics/measures.py", "            self._static,\n", "            None,\n", MEASURES, "masks ignored"),
    (TEMPORAL, "np.median(later)", "np.mean(later)", DETAIL, "jump against the mean"),
    (TEMPORAL, "/ (6 * math.sqrt(2))", "/ 6", DETAIL, "noise of two frames counted as one's"),
    (GATHERING, "-10 * math.log10(error)", "-20 * math.log10(error)", DETAIL, "PSNR doubled"),
    (GATHERING, "both / math.sqrt(power * true_power)", "both / true_power", DETAIL, "correlation not normalised"),
    ("evaluation/metrics/pixels.py", "power *= self.grid.multiplicity", "power *= 1", DETAIL, "mirrored power lost"),
    (
        GATHERING,
        "self._error += self._sum(np.abs(ours - truth) ** 2)",
        "self._error += self._sum((np.abs(ours) - np.abs(truth)) ** 2)",
        DETAIL,
        "band error blind to phase",
    ),
    ("evaluation/metrics/pixels.py", "(self._radius < high)", "(self._radius <= high)", DETAIL, "band closed above"),
    ("evaluation/metrics/pixels.py", "height * np.hypot(", "np.hypot(", DETAIL, "cycles per pixel"),
    (
        "evaluation/metrics/static.py",
        "2 * reach + 1)",
        "1)",
        ("tests/evaluation/metrics/test_static.py",),
        "static mask without its margin",
    ),
    (
        "evaluation/metrics/static.py",
        "NOISE_WIDTHS * noise",
        "noise",
        ("tests/evaluation/metrics/test_static.py",),
        "grain counts as motion",
    ),
    (
        "evaluation/metrics/patches.py",
        "-(-length // size)",
        "max(1, length // size)",
        ("tests/evaluation/metrics/test_patches.py",),
        "tiles leave gaps",
    ),
    (
        "evaluation/metrics/remainder.py",
        "(np.arange(size) + 0.5) * length / size - 0.5",
        "np.arange(size) * length / size",
        HIGH_RESOLUTION,
        "HD-MSE from the corner of a block and not its middle",
    ),
    (
        "evaluation/metrics/cooccurrence.py",
        "share > 0), axis=1)",
        "share > 1e-3), axis=1)",
        HIGH_RESOLUTION,
        "rare values of the co-occurrence matrices are not counted",
    ),
    (
        "evaluation/metrics/cooccurrence.py",
        "max(0, -right) : TILE - max(0, right)",
        "max(0, right) : TILE - max(0, -right)",
        HIGH_RESOLUTION,
        "co-occurrence with the neighbour of the other side",
    ),
    (
        "evaluation/metrics/frechet.py",
        "np.trace(other.covariance) - 2 * crossed",
        "np.trace(other.covariance) - crossed",
        FRECHET,
        "Frechet distance with half of its crossed term",
    ),
    (
        "evaluation/metrics/frechet.py",
        "- found.mean()",
        "- value",
        FRECHET,
        "an interval that is moved by the resamples' bias",
    ),
    (
        "evaluation/networks.py",
        "if index in self.wanted and",
        "if",
        ("tests/evaluation/test_networks.py",),
        "networks see the first frames and not evenly spaced ones",
    ),
    (
        MEASURE,
        "np.power(10.0, np.mean(levels, 0))",
        "np.mean(np.power(10.0, levels), 0)",
        ("tests/evaluation/test_measure_node.py",),
        "arithmetic mean of spectra",
    ),
    (
        MEASURE,
        "self.paired, differs, self.evaluation.fine_band",
        "self.paired, differs",
        ("tests/evaluation/test_measure_node.py",),
        "kept scores of another band",
    ),
    (
        MEASURE,
        'clip.key, native["key"], *scene',
        "clip.key, *scene",
        ("tests/evaluation/test_measure_node.py",),
        "kept scores beside another native clip",
    ),
    ("vbench/totals.py", "= 4.0, 1.0", "= 1.0, 1.0", TOTALS, "quality and semantics weigh alike"),
    ("vbench/dimensions.py", "        share=0.5,", "        share=1.0,", TOTALS, "dynamic degree at full weight"),
    (
        "vbench/totals.py",
        "if any(name not in known for name in dimensions):",
        "dimensions = [name for name in dimensions if name in known]\n    if not dimensions:",
        TOTALS,
        "a quality of what is there",
    ),
    (
        "evaluation/composites.py",
        "if values.isna().any():",
        "if values.isna().all():",
        COMPOSITES,
        "an average of what is there",
    ),
    (
        "evaluation/composites.py",
        '.groupby("metric")["value"].mean()',
        '.groupby("metric")["value"].median()',
        COMPOSITES,
        "totals of medians",
    ),
    ("evaluation/power.py", "** 2 - found.of_seeds", "** 2", POWER, "more prompts make up for training seeds"),
    (
        "evaluation/power.py",
        "(at_ends + normal.inv_cdf(power))",
        "(at_ends + normal.inv_cdf(0.5))",
        POWER,
        "as many prompts as tell it every other time",
    ),
    ("evaluation/readings.py", "else -d) - self.at_least", "else -d)", READINGS, "the least gain asked for is ignored"),
    ("evaluation/power.py", "/ error - at_ends)", "/ error)", POWER, "equivalence at half the confidence"),
    ("evaluation/sequential.py", "ndtri(level / 4)", "ndtri(level / 2)", SEQUENTIAL, "twice the level to either side"),
    ("evaluation/sequential.py", "spent[look] - spent[look - 1]", "spent[look]", SEQUENTIAL, "each look spends it all"),
    ("evaluation/claims.py", "look.over_all(e.p_different)", "e.p_different", SEQUENTIAL, "Holm's at one look's level"),
    (
        "evaluation/readings.py",
        "seen.corrected_equivalent <= tail",
        "seen.p_equivalent <= tail",
        SEQUENTIAL,
        "equivalence is told at any look",
    ),
    (
        "evaluation/earlier_looks.py",
        "not prompts > frozenset",
        "not prompts >= frozenset",
        EARLIER,
        "the same look counts as one before",
    ),
]

STATISTICS_AND_CLAIMS = [
    (
        "evaluation/differences.py",
        '(both["a"] - both["b"])',
        '(both["a"] - both["b"].mean())',
        STATISTICS,
        "differences not paired",
    ),
    ("evaluation/differences.py", '(group["status"] == "scored") & ', "", STATISTICS, "scores of failed rows used"),
    (
        "evaluation/statistics.py",
        "difference_of(values[arm], values[reference]",
        "difference_of(values[reference], values[arm]",
        STATISTICS,
        "difference's sign",
    ),
    (
        "evaluation/differences.py",
        "spread = float(by_prompt.std(ddof=1))",
        "spread = float(by_prompt.std(ddof=0))",
        STATISTICS,
        "effect size of the population",
    ),
    (
        "evaluation/differences.py",
        'groupby(level=["prompt_index", TRAINING]',
        'groupby(level=["prompt_index", "seed"]',
        STATISTICS,
        "means over the wrong seeds",
    ),
    ("evaluation/bootstrap.py", "[tail, 1 - tail]", "[tail, 1 - 2 * tail]", STATISTICS, "upper percentile too low"),
    (
        "evaluation/bootstrap.py",
        "tail = (1 - self.confidence) / 2",
        "tail = 1 - self.confidence",
        STATISTICS,
        "both tails too large",
    ),
    (
        "evaluation/bootstrap.py",
        "np.where(there, _stretched(values), 0.0)",
        "np.where(there, values, 0.0)",
        STATISTICS,
        "training seeds not stretched",
    ),
    (
        "evaluation/bootstrap.py",
        "_draws((self.seed, stream), self.samples",
        "_draws((self.seed, 1), self.samples",
        STATISTICS,
        "two arms' training seeds are resampled alike",
    ),
    (
        "evaluation/bootstrap.py",
        "1 - math.log2(1 - self.confidence)",
        "-math.log2(1 - self.confidence)",
        READINGS,
        "one prompt too few is enough",
    ),
    ("evaluation/readings.py", 'self.better == "higher" else -d', "True else -d", READINGS, "lower is better ignored"),
    ("evaluation/readings.py", "n < bootstrap.fewest_pairs", "n < 2", READINGS, "told from two prompts"),
    ("evaluation/readings.py", " and not seen.negligible", "", READINGS, "a difference within the margin is told"),
    ("evaluation/readings.py", "(low > 0 or high < 0) and seen", "seen", READINGS, "the bootstrap is not asked"),
    (
        "evaluation/readings.py",
        " and seen.corrected_different <= tail",
        "",
        READINGS,
        "the tests beside the bootstrap are not asked",
    ),
    ("evaluation/readings.py", "-asked.margin < low and", "", READINGS, "equivalent with one end within the margin"),
    (
        "evaluation/readings.py",
        " and seen.corrected_equivalent <= tail",
        "",
        READINGS,
        "equivalent by the bootstrap alone",
    ),
    ("evaluation/readings.py", "p_different=max(", "p_different=min(", READINGS, "one test is enough"),
    (
        "evaluation/readings.py",
        "- bootstrap.confidence) / seen.family",
        "- bootstrap.confidence)",
        READINGS,
        "prompts of one",
    ),
    (
        "evaluation/claims.py",
        "MIXED if said == HOLDS and FAILS in others else said",
        "said",
        CLAIMS,
        "nothing is mixed",
    ),
    (
        "evaluation/claims.py",
        "MIXED if said == HOLDS and FAILS in others else said",
        "FAILS if FAILS in others else said",
        CLAIMS,
        "secondary measures have a veto",
    ),
    ("evaluation/claims.py", "claim.at_least or 0.0", "0.0", CLAIMS, "the least gain of a claim is ignored"),
    ("evaluation/claims.py", "*_corrected(found[1:], bootstrap)", "*found[1:]", CLAIMS, "secondary ones not corrected"),
    (
        "evaluation/claims.py",
        "holm([look.over_all(e.p_equivalent) for e in family])",
        "[look.over_all(e.p_equivalent) for e in family]",
        CLAIMS,
        "half",
    ),
    ("evaluation/multiplicity.py", "(len(order) - rank) * p", "p", CLAIMS, "nothing is corrected"),
    ("evaluation/multiplicity.py", "(len(order) - rank)", "len(order)", CLAIMS, "Bonferroni in place of Holm"),
    ("evaluation/estimates.py", "whole += of_seeds(side)", "pass", ESTIMATES, "training seeds add nothing"),
    (
        "evaluation/estimates.py",
        "binomtest(self.ahead, differing)",
        "binomtest(self.ahead, self.prompts)",
        ESTIMATES,
        "ties",
    ),
    ("evaluation/estimates.py", "(count + 1) / (self.prompts + 2)", "count / self.prompts", ESTIMATES, "0 ± 0 of few"),
    ("evaluation/estimates.py", "margin - abs(self.mean - limit)", "margin", ESTIMATES, "equivalent wherever it lies"),
    ("experiment/claims.py", "Field(gt=0)]", "Field()]", ("tests/malformed/test_malformed_report.py",), "margin of 0"),
    (GATHERING, "1 - self._both**2 /", "1 - abs(self._both) /", DETAIL, "no gain mends: one minus the correlation"),
    (
        "evaluation/pooling.py",
        'joined["_pool"].fillna(joined["arm"])',
        'joined["arm"]',
        ("tests/evaluation/test_pooling.py",),
        "replicates not pooled",
    ),
]

IN_KEYS = [
    (
        "generation/clip_settings.py",
        '"arm": arm.model_dump(mode="json", exclude=left_out)',
        '"arm": None',
        KEYS,
        "key lacks the arm",
    ),
    (
        "generation/clip_settings.py",
        "fused_key(stage1.key, getattr(torch, model.dtype), model.quantisation is not None)\n            if stage1",
        "None\n            if stage1",
        KEYS,
        "key lacks stage 1",
    ),
    ("generation/clip_settings.py", '        "target": model.target.model_dump(),\n', "", KEYS, "key lacks the target"),
    (
        "generation/clip_settings.py",
        "sha for extra in arm.extra_adapters for",
        "sha for extra in arm.extra_adapters[:0] for",
        KEYS,
        "key lacks extra adapters' content",
    ),
    (
        "generation/clip_settings.py",
        '"precision": [model.dtype, model.vae_dtype, model.tile]',
        '"precision": []',
        KEYS,
        "key lacks the precision",
    ),
    (
        ARMS,
        "        params.native_scheduler,\n        model.flow_shift,\n",
        "",
        KEYS,
        "native key lacks solver and shift",
    ),
    (
        ARMS,
        '{"native": model.native.model_dump(), "source": params.native_source} |',
        '{"source": params.native_source} |',
        KEYS,
        "native key lacks the size",
    ),
    (CLIPS, 'job.settings, row["prompt"], ', "job.settings, ", KEYS, "key lacks the prompt"),
    (CLIPS, ', row.get("first_frame_sha256", "")', "", KEYS, "key lacks the first frame"),
    (
        STAGE,
        'dividing = {"processes",',
        'dividing = {"optimiser", "processes",',
        KEYS,
        "training key lacks the optimiser",
    ),
    (
        STAGE,
        'dividing = {"processes",',
        'dividing = {"lora", "processes",',
        KEYS,
        "training key lacks the adapter's shape",
    ),
    (
        STAGE,
        'dividing = {"processes",',
        'dividing = {"attention", "processes",',
        KEYS,
        "training key lacks the attention",
    ),
    (
        STAGE,
        'dividing = {"processes",',
        'dividing = {"objective", "processes",',
        KEYS,
        "training key lacks the objective",
    ),
    (
        STAGE,
        'dividing = {"processes",',
        'dividing = {"degradation", "processes",',
        KEYS,
        "training key lacks degradation",
    ),
    (
        STAGE,
        'dividing = {"processes",',
        'dividing = {"sigma_shift", "processes",',
        KEYS,
        "training key lacks the shift",
    ),
    (
        STAGE,
        'dividing = {"processes",',
        'dividing = {"ema_decay", "processes",',
        KEYS,
        "training key lacks the average",
    ),
    (STAGE, 'dividing = {"processes",', 'dividing = {"autocast", "processes",', KEYS, "training key lacks autocast"),
    (STAGE, "model, row, before)", "model, row)", KEYS, "training key lacks stage 1"),
]

OF_AN_ARMS_SCORES = [
    (MEASURE, "return self.evaluation.fine_band, self", "return (4.0, 8.0), self", SCORES, "band fixed"),
    (
        MEASURE,
        "measure_clip(frames, band, Beside(_native_static(native, memory), beside)",
        "measure_clip(frames, band, Beside(static_mask(read_clip(path)), beside)",
        SCORES,
        "the miniature's mask on other prompts",
    ),
    (
        MEASURE,
        "Beside(static_mask(pixels), beside, truth,",
        "Beside(static_mask(pixels), truth, beside,",
        SCORES,
        "truth swapped",
    ),
    (
        TEMPORAL,
        "weight = before.static[rows] * step.static[rows]",
        "weight = 1 - before.static[rows]",
        SCORES,
        "mask upside down",
    ),
    (
        "evaluation/metrics/pixels.py",
        "(0.2126, 0.7152, 0.0722)",
        "(1 / 3, 1 / 3, 1 / 3)",
        SCORES,
        "luminance unweighted",
    ),
]

SUPER_RESOLUTION = "diffusion/super_resolution.py"
DIFFERENCES = "diffusion/lora_differences.py"
OF_PEERS = [
    (
        SUPER_RESOLUTION,
        "margin, ramp = scale * overlap // 4,",
        "margin, ramp = 0 * overlap // 4,",
        SR_FRAME,
        "what a tile's padding changed counts",
    ),
    (
        SUPER_RESOLUTION,
        "weights = weights * edge.flip(0)",
        "weights = weights * 1",
        SR_FRAME,
        "tiles are blended on one side alone",
    ),
    (
        SUPER_RESOLUTION,
        "return total.div_(weight)",
        "return total",
        SR_FRAME,
        "overlaps are summed",
    ),
    (
        "diffusion/rrdb.py",
        "dense = g * (4 * n + 6 * g) + n * (n + 4 * g)",
        "dense = g * (4 * n + 5 * g) + n * (n + 4 * g)",
        SR_FRAME,
        "a dense block's last connection is not counted",
    ),
    (
        "generation/methods/sr.py",
        "shrink(large.float()[:, :, None], size.height, size.width)",
        "shrink(large.mul(255).round().div(255).float()[:, :, None], size.height, size.width)",
        ("tests/generation/methods/test_sr.py",),
        "rounded to bytes before the resize",
    ),
    (
        DIFFERENCES,
        "parameter.float() + weight * difference",
        "parameter.float() + difference",
        FUSED,
        "a row's weight does not reach differences",
    ),
    (
        DIFFERENCES,
        "parameters[name].copy_(value)",
        "parameters[name].add_(0)",
        FUSED,
        "weights keep the differences of an arm that is done",
    ),
    (
        "diffusion/lora_names.py",
        '"norm3": "norm2"}',
        '"norm3": "norm3"}',
        FUSED,
        "Wan's norm3 is taken for diffusers'",
    ),
    (
        "generation/optional_arms.py",
        "if arm.optional else",
        "if arm else",
        ("tests/generation/test_optional_arms.py",),
        "an arm that must run is left out",
    ),
]

MAG = ("tests/diffusion/test_mag_cache.py",)
MEMORY_AND_SPEED = [
    (
        "diffusion/mag_cache.py",
        "config.mag_ratios = self._configs[name].mag_ratios",
        "config.mag_ratios = next(iter(self._configs.values())).mag_ratios",
        MAG,
        "one guidance pass goes by the other's ratios",
    ),
    (
        "diffusion/mag_cache.py",
        "and steps <= self.most_skips",
        "and steps < self.most_skips",
        MAG,
        "the plan counts fewer steps left out than there are",
    ),
    (
        "generation/calibration.py",
        'update={"step_cache": None}',
        'update={"label": ""}',
        ("tests/generation/test_calibration.py",),
        "rows that differ in the cache alone calibrate each",
    ),
    (
        "generation/calibration.py",
        "else file_sha256(cache.ratios)",
        "else str(cache.ratios)",
        ("tests/generation/test_calibration.py",),
        "key lacks what a file of ratios holds",
    ),
    (
        "diffusion/step_cache.py",
        "sum(i % every > 0 for i in inside)",
        "sum(j % every > 0 for j, _ in enumerate(inside))",
        ("tests/diffusion/test_step_cache.py",),
        "broadcasts are counted from the first noise level within",
    ),
    (
        "diffusion/attention_flops.py",
        "linear += sum(2.0 * rows",
        "linear += 0 * sum(2.0 * rows",
        ("tests/diffusion/test_step_cache.py",),
        "adapters beside attention are not saved",
    ),
    (
        "diffusion/quantised_linear.py",
        "(grad @ ctx.layer.numbers()",
        "(grad @ ctx.layer.numbers().abs()",
        ("tests/diffusion/test_quantisation.py",),
        "gradients through a quantised layer",
    ),
    (
        "planning/expert_loads.py",
        "2 * moved / MOVE_BYTES / batch",
        "moved / MOVE_BYTES / batch",
        ("tests/planning/test_experts.py",),
        "an expert that comes never leaves",
    ),
]

MUTATIONS = [
    Mutation(*row)
    for group in (
        NAMED_BY_THE_ISSUE,
        DIFFUSION,
        GENERATION,
        TRAINING,
        IMAGES,
        EVALUATION,
        STATISTICS_AND_CLAIMS,
        IN_KEYS,
        OF_AN_ARMS_SCORES,
        OF_PEERS,
        MEMORY_AND_SPEED,
    )
    for row in group
]
