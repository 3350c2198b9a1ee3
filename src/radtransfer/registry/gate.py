"""The gate: whether a version becomes champion, decided on a frozen test set and recorded with all it rests on.

Both bundles score the same test images anew; what either has learnt from, by leakage group, is looked up first
(:mod:`radtransfer.registry.overlap`). The rules are those of :mod:`radtransfer.registry.weigh`. The decision is made by
compare and swap against the champion that was compared with, and taken back by
:func:`radtransfer.registry.champion.rollback`.
"""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from radtransfer import artifacts, provenance
from radtransfer.errors import RadtransferError
from radtransfer.evaluation.metrics import Scored
from radtransfer.evaluation.shortcuts import shortcuts
from radtransfer.evaluation.verdict import LEARNT, fewest
from radtransfer.fusion.threshold import Rule as ThresholdRule
from radtransfer.preprocess import inherit
from radtransfer.preprocess.store import Store
from radtransfer.registry import ledger
from radtransfer.registry.champion import OvertakenError, decline, promote
from radtransfer.registry.decision import Compared, Decided, Tested
from radtransfer.registry.entry import check_name
from radtransfer.registry.ledger import Ledger
from radtransfer.registry.overlap import Overlap, Revision
from radtransfer.registry.references import found, located
from radtransfer.registry.scorer import Scorer
from radtransfer.registry.versions import BUNDLE, Registry, Version
from radtransfer.registry.weigh import CHALLENGER, CHAMPION, NOT, Rules, Weighed, too_few, weigh
from radtransfer.training.runtime import settle

ATTEMPTS = 3
"""Times that a decision is made anew because another became champion while images were scored."""


def gate(
    *, registry: str, challenger: str, test_store: Path, rules: Rules, threads: int, out: Path | None = None
) -> Decided:
    """Promote a version or decline it, and record why; write a **decision** if ``out`` is named.

    Promoted is what is shown to be better than the champion, or not worse by a margin and better calibrated; where
    there is none, what clears a floor and its shortcuts: :mod:`radtransfer.registry.weigh`. Declined is also what
    cannot be compared fairly: a test image, or another of its leakage group, was learnt from by either bundle; the
    champion is damaged, or its images are prepared otherwise; too few leakage groups hold a class; the version was
    champion and was taken back. Whoever knows better promotes by :func:`radtransfer.registry.champion.promote`.

    A task that is tried again after it has promoted gets the decision that it had made.

    Args:
        registry: folder or ``s3://BUCKET/PREFIX``.
        challenger: ``NAME@VERSION`` (a number, ``newest``; that is meant without ``@VERSION`` too), or the folder of a
            bundle that is a version of the registry.
        test_store: image store of the target, of the newest revision of the data; its test split is the test set.
        rules: margin, floor, resamples.
        threads: CPU threads.
        out: folder to write.

    Returns:
        The decision, as it was recorded.

    Raises:
        RadtransferError: the champion stays and nothing is recorded: the challenger is not there, damaged or champion
            already, the store is not there, damaged, or not one of this challenger's task and form, the registry
            cannot be written, or others became champion all the time.
    """
    if out is not None:
        artifacts.check_free(out)
    opened, version = _asked(registry, challenger)
    if version.kind != BUNDLE:
        raise RadtransferError(f"{challenger}: is of kind {version.kind!r}, and only a bundle can be champion")
    artifacts.read(test_store, "image-store", verify=True)
    store = Store.open(test_store)
    settle(threads, rules.seed)
    with located(f"{opened.place.name}#{version.label}", BUNDLE) as folder:
        case = _Case(store, rules, opened, version, _Scorer.of(folder, store))
        decided = case.decided()
    if out is not None:
        settings = {"registry": opened.place.name, "rules": rules.model_dump(mode="json")}
        inputs = {"test_store": store.artifact, CHALLENGER: case.challenger.judge.bundle}
        with artifacts.writing(out, "decision", step="gate", settings=settings, inputs=inputs) as (_, content):
            content.update(decided.model_dump(mode="json"))
    return decided


def _asked(registry: str, challenger: str) -> tuple[Registry, Version]:
    """The registry and the challenger's version in it."""
    if not (Path(challenger) / artifacts.DESCRIPTION["bundle"]).is_file():
        return found(registry, challenger)
    opened, bundle = Registry.open(registry), artifacts.read(Path(challenger), "bundle")
    its = opened.versions(check_name(bundle.content.get("name"), challenger))
    version = next((each for each in reversed(its) if each.digest == bundle.digest), None)
    if version is None:
        raise RadtransferError(f"{challenger}: is no version of {registry}; enter it first (radtransfer models add)")
    return opened, version


class _Scorer(Scorer):
    """A bundle on the test images."""

    @cached_property
    def scored(self) -> tuple[Scored, int]:
        """Its scores of the test images, and how many it would not judge."""
        found = self.of_rows(self.store.rows("test"))
        scores = np.array([one.score for one in found], dtype=np.float64)
        return Scored(scores, self.judge.predictor.threshold), sum(bool(one.unfit) for one in found)


class _Case:
    """A challenger and what it is tested on; the champion may change while it is weighed."""

    def __init__(self, store: Store, rules: Rules, registry: Registry, version: Version, challenger: _Scorer) -> None:
        self.store, self.rules, self.registry, self.version = store, rules, registry, version
        self.challenger = challenger
        self.revision = Revision(store.artifact.path)
        self.test = store.manifest.iloc[store.rows("test")]
        self.labels: NDArray[np.bool_] = self.test["label"].to_numpy(dtype=bool)
        self.groups: NDArray[np.str_] = self.test["group_id"].to_numpy(dtype=str)
        self.tested = self._tested()
        self.mine = self._compared(version, challenger)

    def decided(self) -> Decided:
        """Weigh, and record what comes of it, against whoever is champion by then.

        Raises:
            RadtransferError: as of :func:`gate`.
        """
        name, number = self.version.name, self.version.number
        for _ in range(ATTEMPTS):
            before = ledger.read(self.registry.place, name)[0]
            if before.champion == number:
                return self._made(before)
            decided = self._weighed(before)
            record = promote if decided.outcome == "promoted" else decline
            figures = decided.model_dump(mode="json")
            try:
                record(
                    self.registry, name, number, why=f"gate: {decided.why}", figures=figures, by=decided.by,
                    instead_of=before.champion or 0,
                )  # fmt: skip
            except OvertakenError:
                continue
            return decided
        raise RadtransferError(
            f"{self.registry.place.name}: another version of {name} became champion {ATTEMPTS} times while "
            f"{self.version.label} was compared; nothing was decided, try again"
        )

    def _made(self, book: Ledger) -> Decided:
        """The decision by which it is champion already, if it was made on this test set.

        Raises:
            RadtransferError: it was not.
        """
        last = next(each for each in reversed(book.history) if each.action != "decline")
        if last.action == "promote" and last.figures.get("test", {}).get("digest") == self.tested.digest:
            return Decided.model_validate_json(json.dumps(last.figures))
        raise RadtransferError(
            f"{self.registry.place.name}: {self.version.label} is the champion already; name another version"
        )

    def _weighed(self, book: Ledger) -> Decided:
        mine, champion, theirs = self.mine, None, None
        unfair = self._unfair(book)
        if not unfair and book.champion is not None:
            champion, theirs, unfair = self._champion(book.champion)
        if unfair:
            return self._decided(mine, champion, Weighed("not comparable", f"not comparable: {unfair}", {}, []))
        scored, unfit = self.challenger.scored
        given = {CHALLENGER: scored} | (self._shortcuts() if theirs is None else {CHAMPION: theirs})
        weighed = weigh(self.labels, self.groups, given, self.rules, f"{self.version.name}@{book.champion}")
        mine = mine.model_copy(update={"metrics": weighed.metrics.pop(CHALLENGER), "unfit": unfit})
        if champion is not None:
            champion = champion.model_copy(update={"metrics": weighed.metrics.pop(CHAMPION)})
        return self._decided(mine, champion, weighed)

    def _unfair(self, book: Ledger) -> str:
        """Why the challenger cannot be weighed, whoever is champion; empty: it can."""
        back = book.taken_back(self.version.number)
        if back is not None:
            return f"it was champion and was taken back, {back.when} by {back.by}: {back.why}"
        lacking = too_few(self.labels, self.groups, self.rules)
        if lacking:
            return lacking
        unclean = _unclean(self.version.label, self.mine.overlap)
        if not unclean and self.mine.overlap and self.mine.overlap.unplaced:
            return (
                f"{self.version.label} has learnt from {self.mine.overlap.unplaced} images of no known patient that "
                "this revision of the data has not read: whether test images are nearly like them cannot be told"
            )
        return unclean

    def _champion(self, number: int) -> tuple[Compared, Scored | None, str]:
        """The champion, its scores of the test images, and why there are none."""
        label = f"{self.version.name}@{number}"
        about = Compared(version=number, digest="", code=[], data={}, overlap=None, unfit=None, metrics={})
        try:
            version = self.registry.version(self.version.name, "champion")
            about = self._compared(version, None)
            with located(f"{self.registry.place.name}#{label}", BUNDLE) as folder:
                scorer = _Scorer.of(folder, self.store)
                about = self._compared(version, scorer)
                unclean = _unclean(label, about.overlap)
                if unclean:
                    return about, None, unclean
                scores, unfit = scorer.scored
        except RadtransferError as error:
            return about, None, f"the champion {label} cannot score the test images: {error}"
        return about.model_copy(update={"unfit": unfit}), scores, ""

    def _compared(self, version: Version, scorer: _Scorer | None) -> Compared:
        overlap = None
        if scorer is not None:
            bundle = scorer.judge.bundle
            overlap = self.revision.overlap(bundle.path, bundle.content, self.test)
        return Compared(
            version=version.number, digest=version.digest, code=version.code, data=version.data, overlap=overlap,
            unfit=None, metrics={},
        )  # fmt: skip

    def _shortcuts(self) -> dict[str, Scored]:
        """Those that a first model must clear, fitted on the store's own training images.

        Raises:
            RadtransferError: it has none.
        """
        content = self.challenger.judge.bundle.content
        with threadpool_limits(1):  # as in `evaluate`
            rule = ThresholdRule.read(content["threshold_rule"])
            made = shortcuts(self.store, self.rules.seed, content["calibrated_by"], rule)
        named = {f"shortcut/{one.name}": Scored(one.scores, one.threshold) for one in made}
        return {name: named[name] for name in LEARNT}

    def _tested(self) -> Tested:
        content = self.store.content
        columns = ["image_id", "sha256", "label", "group_id"]
        listed = sorted([str(cell) for cell in row] for row in self.test[columns].itertuples(index=False))
        return Tested(
            digest=hashlib.sha256(json.dumps(listed).encode()).hexdigest(),
            store_digest=self.store.artifact.digest,
            data=content.get("data", {}),
            name=content["name"],
            part=content["part"],
            positive_class=content["positive_class"],
            synthetic=content["synthetic"],
            images=len(self.test),
            groups=len(set(self.groups.tolist())),
            positives=int(self.labels.sum()),
            rarer_groups=fewest(self.labels, self.groups)[0],
        )

    def _decided(self, mine: Compared, champion: Compared | None, weighed: Weighed) -> Decided:
        return Decided(
            name=self.version.name,
            outcome="declined" if weighed.rule in NOT else "promoted",
            rule=weighed.rule,
            why=weighed.why,
            challenger=mine,
            champion=champion,
            test=self.tested,
            rules=self.rules,
            differences=weighed.differences,
            shortcuts=weighed.metrics,
            code=provenance.code_version(),
            image=provenance.image(),
            when=datetime.now(UTC).isoformat(timespec="seconds"),
            by=provenance.who(),
        )


def _unclean(label: str, overlap: Overlap | None) -> str:
    """Why a bundle must not be tested on these images; empty: it may."""
    if overlap is None:
        return f"{label} does not name the images that it has learnt from ({inherit.FILE})"
    if not overlap.images:
        return ""
    return (
        f"{label} has learnt from the leakage groups of {overlap.images} test images ({overlap.groups} groups; "
        f"{overlap.example} is the first); make the store with the splits that it was trained by (previous_splits)"
    )
