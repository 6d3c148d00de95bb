"""Result files of the authors' form."""

from __future__ import annotations

from repro.report.numbers.authors import ATTACKABLE, FILES, IMAGES

CC3M, CC6M, CC6M_200K = FILES
Series = dict[str, list[list[float]]]


def series(dataset: str = "", poison: str = "", *, mmcl: int = 7_000) -> Series:
    """Six series of the published form: the start, a point under the cap and a better one over it.

    Those of CC6M have no evaluation of the start model. `mmcl`: images that the MMCL model gets
    right under the cap, of 8,000 at its start.
    """
    first = 1 if dataset else 0
    return {
        f"cleaning_poisoned_{dataset}{objective}_{poison}clean_{loss}_lr_": [
            [49_900 / ATTACKABLE, 2_000 / ATTACKABLE, 3_000 / ATTACKABLE][first:],
            [8_000 / IMAGES, (mmcl if objective == "mmcl" else 5_000) / IMAGES, 7_500 / IMAGES][
                first:
            ],
        ]
        for objective in ("mmcl", "mmcl_ssl")
        for loss in ("mmcl", "ssl", "mmcl_ssl")
    }
