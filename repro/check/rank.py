"""One rank of the check of ranks, started by torchrun: PROFILE BACKEND OUT."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from repro.check.work import FULL, TOY, Scale, Trainee, batch
from repro.train.process import distributed
from repro.train.process.device import set_arithmetic

PAIRS, GROUPS, STEPS = 16, 2, 6


def main(profile_name: str, backend: str, out: Path) -> None:
    """Rank 0 writes what the ranks found."""
    cuda = torch.cuda.is_available()
    device = torch.device("cuda", 0) if cuda else torch.device("cpu")
    scale = FULL if profile_name == FULL.profile_name else TOY

    dist.init_process_group(backend)
    found = try_ranks(scale, device)
    if distributed.rank() == 0:
        out.write_text(json.dumps(found), encoding="utf-8")
    distributed.stop()


def try_ranks(scale: Scale, device: torch.device) -> dict[str, Any]:
    """Six steps on this rank's part of the pairs, and what it sees of the other ranks."""
    rank, ranks = distributed.rank(), distributed.ranks()
    set_arithmetic("fp32", True, device)
    trainee = Trainee(scale.spec("mmcl", "fp32"), device, groups=GROUPS // ranks)
    if ranks > 1:
        trainee.encoder = DistributedDataParallel(trainee.encoder)

    mine = slice(rank * PAIRS // ranks, (rank + 1) * PAIRS // ranks)
    losses = []
    for step in range(STEPS):
        images, tokens = batch(scale, PAIRS, 1, 20, step, device)
        losses.append(float(trainee.step(images[:, mine], tokens[:, mine])))

    # What the training loop does before it evaluates.
    distributed.share_buffers(trainee.model)
    means = trainee.model.visual.bn1.running_mean
    everybodys = [torch.empty_like(means) for _ in range(ranks)]
    dist.all_gather(everybodys, means)

    return {
        "losses": losses,
        "buffers_equal": all(torch.equal(everybodys[0], other) for other in everybodys),
        "gathered": len(distributed.gather_rows(torch.arange(3 + rank, device=device))),
        "any_rank": distributed.any_rank(rank == ranks - 1, device),
    }


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
