"""Whether a difference as large as ``smallest_detectable`` is shown as often as the report says, by simulation.

    python benchmarks/power.py [--sets 1000] [--replicates 999] [--sizes 200,1000]

Sets as in ``coverage.py``. Of sets whose classifiers are equally good the median ``smallest_detectable`` is taken; then
the true AUROCs are set that far apart, half above and half below, and the share of sets that show it (p < .05, one
comparison) is the power: 80 % is what the report promises. *Told there* is the median that those sets themselves would
report. Exit code 1 if the power of a setting with at least 15 groups of the rarer class lies outside 70 to 90 %.
"""

from __future__ import annotations

import argparse
import sys
from itertools import product

import numpy as np
from coverage import AREAS, PREVALENCES, Drawn, Setting, draw, replicated, shuffled

from radtransfer.evaluation.compare import ALPHA, contrast
from radtransfer.evaluation.metrics import Floats
from radtransfer.evaluation.verdict import TOO_FEW

PROMISED = (0.7, 0.9)


def told(drawn: Drawn, counts: Floats) -> tuple[float, float]:
    """p-value and smallest detectable difference of a set."""
    y = drawn.labels
    value, against = (float((scores[y][:, None] > scores[~y][None, :]).mean()) for scores in drawn.scores)
    found = contrast("a", "b", "auroc", value - against, replicated(drawn, counts, False)[0], "f")
    if found.p_value is None or found.smallest_detectable is None:
        sys.exit(f"no p-value for a set of {len(y)} images")
    return found.p_value, found.smallest_detectable


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--sets", type=int, default=1000, help="simulated sets of each setting")
    parser.add_argument("--replicates", type=int, default=999, help="bootstrap replicates of each set")
    parser.add_argument("--sizes", default="200,1000", help="numbers of images")
    given = parser.parse_args()
    sizes = [int(size) for size in given.sizes.split(",")]
    print("| data | images | prevalence | AUROC | groups | smallest detectable | told there | power, % |")
    print("|---|" + "---:|" * 7)
    kept = True
    for grouped, images, prevalence, area in product((False, True), sizes, PREVALENCES, AREAS):
        setting = Setting(grouped, images, prevalence, area)
        rng = np.random.default_rng([images, int(100 * prevalence), int(100 * area), grouped])
        groups = int(draw(setting, rng).group[-1]) + 1
        counts = rng.multinomial(groups, np.full(groups, 1 / groups), size=given.replicates).astype(np.float64)
        pilots = [draw(setting, rng) for _ in range(100)]
        detectable = float(np.median([told(one, shuffled(counts, one, rng))[1] for one in pilots]))
        few = np.median([min(len(np.unique(one.group[side])) for side in (one.labels, ~one.labels)) for one in pilots])
        kind = "grouped" if grouped else "independent"
        row = f"| {kind} | {images} | {prevalence:g} | {area:g} | {few:g} | {detectable:.3f} |"
        if area + detectable / 2 > 0.99:
            print(f"{row} | none so large |", flush=True)
            continue
        p_values, there = np.array(
            [
                told(drawn, shuffled(counts, drawn, rng))
                for drawn in (draw(setting, rng, detectable) for _ in range(given.sets))
            ]
        ).T
        power = float((p_values < ALPHA).mean())
        kept &= few < TOO_FEW or PROMISED[0] <= power <= PROMISED[1]
        print(f"{row} {np.median(there):.3f} | {100 * power:.1f} |", flush=True)
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
