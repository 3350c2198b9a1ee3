"""What is recorded of a decision of the gate, in the ledger and in ``decision.json``."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from radtransfer.registry.documents import Document
from radtransfer.registry.overlap import Overlap
from radtransfer.registry.weigh import Difference, Estimate, Rule, Rules


class Tested(Document):
    """What was tested on.

    Attributes:
        digest: of the test images: names, sha256 of the files, labels and leakage groups.
        store_digest: of the target's store.
        data: where its images are from, with revision and digest.
        name, part, positive_class, synthetic: of the store.
        images, groups, positives, rarer_groups: counts; the last: groups with the class that fewer groups hold.
    """

    digest: str
    store_digest: str
    data: dict[str, Any]
    name: str
    part: str
    positive_class: str
    synthetic: bool
    images: int
    groups: int
    positives: int
    rarer_groups: int


class Compared(Document):
    """A version, as far as the decision rests on it.

    Attributes:
        version: its number.
        digest, code, data: as of :class:`radtransfer.registry.versions.Version`; empty of a champion that is not there.
        overlap: what it has seen of the test images; None: that was not looked at, or cannot be told.
        unfit: test images that it would refuse to judge; their scores count all the same. None: not scored.
        metrics: of the test images.
    """

    version: int = Field(ge=1)
    digest: str
    code: list[str]
    data: dict[str, Any]
    overlap: Overlap | None
    unfit: int | None
    metrics: dict[str, Estimate]


class Decided(Document):
    """A decision with all it rests on: what ``decision.json`` and the ledger keep.

    Attributes:
        name: of the model.
        outcome, rule, why: ``promoted`` by which rule, or ``declined``; and the sentence.
        challenger, champion: what was compared; no champion: the first model.
        test: what was tested on.
        rules: by which.
        differences: challenger less champion; of a first model, less each shortcut. Empty: not comparable.
        shortcuts: metrics of the shortcuts, of a first model.
        code, image: that decided.
        when, by: ISO 8601, UTC; who.
    """

    name: str
    outcome: Literal["promoted", "declined"]
    rule: Rule
    why: str
    challenger: Compared
    champion: Compared | None
    test: Tested
    rules: Rules
    differences: list[Difference]
    shortcuts: dict[str, dict[str, Estimate]]
    code: str
    image: str
    when: str
    by: str
