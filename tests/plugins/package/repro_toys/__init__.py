"""What specifications know of the entries; their code is in `repro_toys.code`."""

from repro.names import DefenceNames, LossName, Setting
from repro.plugins import Plugin

WHITE = Plugin("white square", "repro_toys.code:WHITE")
PAIRWISE = Plugin(LossName("distance of pairs", 1), "repro_toys.code:pairwise")
HALF_STEP = Plugin(
    DefenceNames("a part of every step", {"part": Setting(0.5, most=1.0)}),
    "repro_toys.code:HALF_STEP",
)
