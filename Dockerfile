# The study in a container: `docker build -t repro .`, then
#   docker run --rm --gpus all repro                    # make reproduce; compose.yaml keeps the results
#   docker run --rm repro make test FAST=1
# A CUDA base gives the driver libraries' mount points; torch brings its own CUDA libraries from the package registry.
# For a machine without a GPU: --build-arg BASE=debian:13-slim.
ARG BASE=nvidia/cuda:12.8.1-base-ubuntu24.04
FROM ${BASE}

RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends \
        ca-certificates git make python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*

RUN useradd --create-home --uid 10001 repro && mkdir /project && chown repro:repro /project
USER repro
WORKDIR /project

# The environment first: a layer that only pyproject.toml, constraints.txt and setup.sh can make stale.
# EXTRAS=node: the image has no npm. PIP_EXTRA_INDEX_URL may name an index with other builds of torch.
ARG PIP_EXTRA_INDEX_URL=
ARG EXTRAS=test,tracking
ENV EXTRAS=${EXTRAS}
COPY --chown=repro:repro pyproject.toml constraints.txt setup.sh README.md LICENSE NOTICE ./
COPY --chown=repro:repro repro/__init__.py repro/
RUN PIP_NO_CACHE_DIR=1 bash setup.sh

COPY --chown=repro:repro . .
# The build context has no .git, and DVC asks to be told. The folders are here so that volumes over them belong to the user.
RUN .venv/bin/dvc config --local core.no_scm true \
    && mkdir -p data poisoned models results sacred work .dvc/cache report/build

CMD ["make", "reproduce"]
