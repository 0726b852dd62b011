# The whole project with its tests' pins, for a CPU or an NVIDIA GPU:
#   docker build -t vibe:cuda .                                     the index's own torch, which brings CUDA along
#   docker build -t vibe --build-arg TORCH_INDEX=ADDRESS .          torch from PyTorch's index of CPU builds: smaller
#   docker run --rm -v "$PWD/data:/project/data" vibe kedro run --runner=ParallelRunner
#   docker run --rm --gpus all --ipc=host -v "$PWD/data:/project/data" vibe:cuda kedro run --env=wan22_ti2v_5b
# Your images and weights come in by volumes; of data/ only what is shipped is in the image. A volume hides what the
# image holds in its place, so let it be the clone's own data/. Several GPUs talk through shared memory: --ipc=host.
FROM python:3.11-slim-bookworm

# A compiler for `compile: true`, git for the commit of a run where a clone is mounted.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ git \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /project
ENV OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1

# torch first and alone, as `make setup` does: nothing later may move it.
ARG TORCH_INDEX=
COPY requirements requirements
RUN pip install ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} -r requirements/torch.txt
RUN pip install -c requirements/constraints.txt -r requirements/core.txt -r requirements/evaluation.txt \
    && pip install --no-deps -r requirements/evaluation-nodeps.txt

COPY . .
RUN pip install --no-deps --editable .

# Beside `data`, runs are kept in mlflow.db and mlartifacts: give them a volume too, or a server's address as
# --params=tracking.uri=http://HOST:PORT.
CMD ["kedro", "run", "--runner=ParallelRunner"]
