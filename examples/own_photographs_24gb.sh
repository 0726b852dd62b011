#!/usr/bin/env bash
# Train on your photographs with one 24 GB card: Wan2.1-T2V-1.3B fits. Each image has a caption beside it (docs/data.md).
# By the plan 15.6 h on an RTX 4090 with 200 images: 3 h of training, the rest 4 prompts' clips with and without the
# adapter. The 64 prompts of the model's environment, whose claims want many, would take 8.5 days.
set -euo pipefail

kedro vibe init "${1:?a folder of images}" --model wan21_t2v_1_3b --name photographs
kedro vibe plan --env=photographs --params=generation.count=4 --device=4090    # does it fit, how long
kedro vibe doctor --env=photographs --params=generation.count=4                # what is missing, each with its command
kedro vibe rehearse --env=photographs --params=generation.count=4              # every row for a step or two
kedro run --env=photographs --params=generation.count=4
kedro vibe report --env=photographs --open
