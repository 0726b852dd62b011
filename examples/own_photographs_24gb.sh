#!/usr/bin/env bash
# Train on your photographs with one 24 GB card: Wan2.1-T2V-1.3B fits. Each image has a caption beside it (docs/data.md).
set -euo pipefail

kedro vibe init "${1:?a folder of images}" --model wan21_t2v_1_3b --name photographs
kedro vibe plan --env=photographs --device=4090     # does it fit, how long
kedro vibe doctor --env=photographs                 # what is missing, each with its command
kedro vibe rehearse --env=photographs               # every row for a step or two
kedro run --env=photographs
kedro vibe report --env=photographs --open
