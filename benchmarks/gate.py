"""How often the gate promotes, by simulation: equal challengers, better ones, worse ones, and better calibrated ones.

    python benchmarks/gate.py [--repeats N] [--groups 40,150] [--seed N]

Binormal scores of champion and challenger on the same images, turned into their true probabilities, so that both are
calibrated unless one is made overconfident (its logits times 2). Groups of 1 to 3 images, all of one label, 40 %
positive; the noise of both correlates by .6 and two fifths of it belong to the group. Every set is decided by
:func:`radtransfer.registry.weigh.weigh` with its own rules (margin .02).

"worse by the margin" is the worst that "as good" must not let pass. 2,000 sets leave a standard error of 0.5 percentage
points at 5 %.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit
from scipy.stats import norm

from radtransfer.evaluation.metrics import Floats, Scored
from radtransfer.registry.weigh import CHALLENGER, CHAMPION, Rules, weigh

PREVALENCE = 0.4
AREA = 0.85
SHARED = 0.6  # correlation of the two models' noise
WITHIN = 0.4  # share of the noise's variance that belongs to the group


class Case(NamedTuple):
    """What is simulated: the challenger's AUROC less the champion's, and what their logits are multiplied by."""

    gain: float = 0.0
    challenger: float = 1.0
    champion: float = 1.0


CASES = {
    "equal": Case(),
    "equal, both overconfident": Case(challenger=2.0, champion=2.0),
    "better by .03": Case(gain=0.03),
    "better by .08": Case(gain=0.08),
    "equal, better calibrated": Case(champion=2.0),
    "worse by the margin, better calibrated": Case(gain=-0.02, champion=2.0),
    "worse by .05, better calibrated": Case(gain=-0.05, champion=2.0),
    "worse by .05": Case(gain=-0.05),
}


def drawn(
    case: Case, groups: int, rng: np.random.Generator
) -> tuple[NDArray[np.bool_], NDArray[np.str_], dict[str, Scored]]:
    """Labels, groups and scores of a test set of so many groups."""
    group = np.repeat(np.arange(groups), rng.integers(1, 4, groups))
    labels = (rng.permutation(groups) < round(PREVALENCE * groups))[group]

    def noise() -> Floats:
        within = np.sqrt(WITHIN) * rng.standard_normal(groups)[group]
        return np.asarray(within + np.sqrt(1 - WITHIN) * rng.standard_normal(len(group)))

    shared, given = noise(), {}
    for name, area, times in ((CHAMPION, AREA, case.champion), (CHALLENGER, AREA + case.gain, case.challenger)):
        apart = np.sqrt(2) * float(norm.ppf(area))
        seen = apart * labels + np.sqrt(SHARED) * shared + np.sqrt(1 - SHARED) * noise()
        logits = np.log(PREVALENCE / (1 - PREVALENCE)) + apart * (seen - apart / 2)
        given[name] = Scored(expit(times * logits), 0.5)
    return labels, group.astype(str), given


def decided(case: Case, groups: int, repeats: int, seed: int) -> Counter[str]:
    """How many of so many test sets were decided by which rule."""
    rng = np.random.default_rng(seed)
    return Counter(weigh(*drawn(case, groups, rng), Rules()).rule for _ in range(repeats))


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=2000)
    parser.add_argument("--groups", default="40,150")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    print("| challenger | groups | promoted | better | as good, better calibrated |\n|---|---|---|---|---|")
    for groups in map(int, given.groups.split(",")):
        for name, case in CASES.items():
            found = decided(case, groups, given.repeats, given.seed)
            shares = [found[rule] / given.repeats for rule in ("better", "as good, better calibrated")]
            print(f"| {name} | {groups} | {sum(shares):.1%} | {shares[0]:.1%} | {shares[1]:.1%} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
