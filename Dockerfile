# The study in a container: `docker build -t repro .`, then
#   docker run --name study --gpus all --ipc=host --ulimit memlock=-1 -v "$PWD/incoming:/project/incoming:ro" repro
#   docker cp study:/project/report/build .
#   docker run --rm repro make test
# Without a GPU: `docker build --build-arg BASE=debian:13-slim -t repro .`, then
#   docker run --name study repro && docker cp study:/project/report/build .
# The first `run` is `make reproduce`; after a kill `docker start -a study` goes on. compose.yaml keeps all results in volumes.
# --ipc=host: loader processes and NCCL hand batches over in
# shared memory, of which a container has 64 MB otherwise. memlock is for pinned memory. The volume has what the user brings for `paper`.
#
# A CUDA base gives the driver libraries' mount points and refuses drivers that are too old; torch brings its own CUDA
# libraries from the package registry. They are of CUDA 13 from torch 2.11 on, and so is the base (driver 580 or newer); for
# an older driver take --build-arg BASE=nvidia/cuda:12.8.1-base-ubuntu24.04 and an index with builds for CUDA 12 in
# PIP_EXTRA_INDEX_URL.
ARG BASE=nvidia/cuda:13.0.1-base-ubuntu24.04
FROM ${BASE}

# gcc and Python's headers: `compile: true` builds its kernels' launchers with Triton. numactl binds ranks to cores.
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends \
        ca-certificates gcc git make numactl python3 python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/*

RUN useradd --create-home --uid 10001 repro && mkdir /project && chown repro:repro /project
USER repro
WORKDIR /project

# The environment first: a layer that only pyproject.toml, constraints.txt and setup.sh can make stale.
# The image has no npm, so that setup.sh adds the extra `node`. PIP_EXTRA_INDEX_URL may name an index with other builds of torch.
ARG PIP_EXTRA_INDEX_URL=
# cuda or cpu: a build sees no GPU, and where a registry offers CPU builds of torch one would be taken.
ARG REPRO_TORCH=
ARG EXTRAS=test,tracking
ENV EXTRAS=${EXTRAS}
COPY --chown=repro:repro pyproject.toml constraints.txt setup.sh README.md LICENSE NOTICE ./
COPY --chown=repro:repro repro/__init__.py repro/
RUN PIP_NO_CACHE_DIR=1 bash setup.sh

COPY --chown=repro:repro . .
# The build context has no .git, and DVC asks to be told. The folders are here so that volumes over them belong to the user.
RUN .venv/bin/dvc config --local core.no_scm true \
    && mkdir -p data incoming poisoned models results sacred work .dvc/cache report/build report/metrics

CMD ["make", "reproduce"]
