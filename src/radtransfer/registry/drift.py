"""The step ``drift``: how the images that came since the champion was trained differ from those that it knows.

Nobody reads a test image or its label here: what is compared are images of the train and validation splits. Images of
groups that the champion knows any image of are on its side; what it learnt by heart is left out where its own view is
asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from radtransfer import artifacts, pages
from radtransfer.errors import RadtransferError
from radtransfer.evaluation.shift import REASSIGNMENTS, SIGNIFICANCE, Shift, corrected, shift
from radtransfer.evaluation.verdict import TOO_FEW
from radtransfer.preprocess import inherit
from radtransfer.preprocess.letterbox import region
from radtransfer.preprocess.store import Store
from radtransfer.registry import ledger
from radtransfer.registry.references import located
from radtransfer.registry.scorer import Scorer
from radtransfer.registry.versions import BUNDLE, Registry, Version
from radtransfer.training.runtime import settle

LEARNT = ("train", "validation")
FIGURES = {
    "grey level": "mean grey level of what is shown, 0 to 1",
    "contrast": "standard deviation of the grey levels of what is shown, 0 to 0.5",
    "longer side": "longer side of the image file, px",
    "aspect": "width over height of the image file",
    "positive": "label: share of positives",
    "distance": "distance from the champion's training images in its features, 1: as far as the median one",
    "score": "champion's calibrated probability",
}
OF_CHAMPION = ("distance", "score")


class _Sides(NamedTuple):
    """Rows of a store that are compared.

    Attributes:
        known: of groups that the champion knows.
        unlearnt: of these, those that it was not trained on.
        new: of all other groups.
    """

    known: NDArray[np.int64]
    unlearnt: NDArray[np.int64]
    new: NDArray[np.int64]


def drift(*, name: str, registry: str, target_store: Path, threads: int, out: Path) -> None:
    """Compare new images with those that the champion knows, and write a **drift**: ``drift.json``, ``drift.html``.

    Grey levels, sizes and labels are compared between all train and validation images of known and of new groups;
    distances and scores between the champion's validation images and the new ones. Where there is no champion, or it
    cannot see the images, that is what is said.

    Args:
        name: of the model.
        registry: folder or ``s3://BUCKET/PREFIX``.
        target_store: of the new revision.
        threads: CPU threads.
        out: folder to write.

    Raises:
        RadtransferError: the store is damaged, or there is no such registry.
    """
    artifacts.check_free(out)
    store = Store.open(target_store)
    settle(threads, 0)
    opened = Registry.open(registry)
    number = ledger.read(opened.place, name)[0].champion
    found: dict[str, Any] = {"champion": number, "unseen": "", "shifts": [], "labels": None, "counts": {}}
    if number is not None:
        found |= _compared(f"{opened.place.name}#{name}@{number}", opened.version(name, number), store)
    found |= {"name": name, "answer": answer(found), "synthetic": store.content["synthetic"]}
    found |= {"positive_class": store.content["positive_class"], "data": store.content.get("data", {})}
    settings = {"registry": opened.place.name, "reassignments": REASSIGNMENTS, "significance": SIGNIFICANCE}
    inputs = {"target_store": store.artifact}
    with artifacts.writing(out, "drift", step="drift", settings=settings, inputs=inputs) as (folder, content):
        content.update(found)
        (folder / "drift.html").write_text(render(found), encoding="utf-8")


def answer(found: Mapping[str, Any]) -> str:
    """What it comes to, in a few sentences."""
    if found["champion"] is None:
        return "There is no champion yet to compare with."
    counts, label = found["counts"], f"{found['name']}@{found['champion']}" if "name" in found else "the champion"
    if not counts:
        return f"Nothing could be compared: {found['unseen']}."
    said = [
        f"{counts['new']} train and validation images of {counts['new_groups']} groups are new to {label}, "
        f"{counts['known']} of {counts['known_groups']} are known to it, {counts['gone']} that it knew are gone."
    ]
    shown = [one["figure"] for one in found["shifts"] if one["shown"]]
    tested = [one for one in found["shifts"] if one["adjusted_p"] is not None]
    if shown:
        said.append(f"Shown to be distributed otherwise among the new ones: {', '.join(shown)}.")
    elif tested:
        said.append("No shift is shown, which does not mean that there is none.")
    else:
        said.append(f"No test: one side has fewer than {TOO_FEW} groups.")
    labels = found["labels"]
    if labels and labels["now"] != labels["then"]:
        said.append(
            f"Labels of known images changed: {labels['then']} of {labels['images']} were positive when it was "
            f"trained, {labels['now']} are now."
        )
    if found["unseen"]:
        said.append(f"Its view of them is missing: {found['unseen']}.")
    return " ".join(said)


def render(content: Mapping[str, Any]) -> str:
    """The page: self-contained, without scripts."""
    environment = pages.environment()
    return environment.get_template("registry/drift.html").render(
        content=content, figures=FIGURES, of_champion=OF_CHAMPION, reassignments=REASSIGNMENTS,
        significance=SIGNIFICANCE, few=TOO_FEW,
    )  # fmt: skip


def _compared(reference: str, version: Version, store: Store) -> dict[str, Any]:
    try:
        with located(reference, BUNDLE) as folder:
            known = inherit.Inherited.of(folder)
            sides, counts = _sides(known, store)
            shifts = [
                _shift(figure, store, (sides.known, sides.new), (made(sides.known), made(sides.new)))
                for figure, made in _plain(store).items()
            ]
            own, unseen = _by_champion(folder, store, sides)
    except RadtransferError as error:
        return {"unseen": str(error)}
    then = _positives(version.data.get("counts", {}), store)
    learnt = sides.known[_kept(known, store, sides.known)]
    now = int(store.manifest["label"].iloc[learnt].sum())
    same = then is not None and then[1] == len(learnt)
    return {
        "counts": counts,
        "unseen": unseen,
        "labels": {"images": len(learnt), "then": then[0], "now": now} if then and same else None,
        "shifts": [one.said() for one in corrected([*shifts, *own])],
    }


def _sides(known: inherit.Inherited, store: Store) -> tuple[_Sides, dict[str, int]]:
    """The rows that are compared, and how many they are."""
    rows, manifest = store.rows(*LEARNT), store.manifest
    split = [known.splits("target", *cells) for cells in zip(manifest["image_id"], manifest["sha256"], strict=True)]
    groups = manifest["group_id"].to_numpy(dtype=str)
    familiar = np.isin(groups, groups[[bool(its) for its in split]])
    unlearnt = np.array([its == {"validation"} for its in split], dtype=bool)
    sides = _Sides(rows[familiar[rows]], rows[unlearnt[rows]], rows[~familiar[rows]])
    here = set(manifest["image_id"]) | set(manifest["sha256"])
    names = {key for role, key in known.known if role == "target"}
    counts = {
        "known": len(sides.known),
        "known_groups": len(set(groups[sides.known])),
        "new": len(sides.new),
        "new_groups": len(set(groups[sides.new])),
        "gone": len(names - here) // 2,  # each image is known by its name and by its sha256
    }
    return sides, counts


def _kept(known: inherit.Inherited, store: Store, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which rows are themselves images of the champion, and not only of a group of its."""
    cells = store.manifest[["image_id", "sha256"]].iloc[rows].itertuples(index=False)
    return np.array([bool(known.splits("target", *map(str, its))) for its in cells], dtype=bool)


def _positives(counts: Mapping[str, Mapping[str, int]], store: Store) -> tuple[int, int] | None:
    """How many train and validation images were positive when the champion was trained, and how many there were."""
    its = [counts[split] for split in LEARNT if split in counts]
    if not its:
        return None
    return sum(each.get(store.content["positive_class"], 0) for each in its), sum(sum(each.values()) for each in its)


def _plain(store: Store) -> dict[str, Callable[[NDArray[np.int64]], NDArray[np.float64]]]:
    """What is seen of rows without a network."""

    def levels(rows: NDArray[np.int64], measure: Callable[[NDArray[np.uint8]], Any]) -> NDArray[np.float64]:
        found = []
        for row in rows.tolist():
            x0, y0, x1, y1 = (round(edge) for edge in region(store, row))
            found.append(float(measure(store.images[row, y0:y1, x0:x1])) / 255)
        return np.array(found)

    def sides(rows: NDArray[np.int64]) -> NDArray[np.float64]:
        return np.asarray(store.manifest[["width", "height"]].to_numpy(dtype=float)[rows])

    return {
        "grey level": lambda rows: levels(rows, np.mean),
        "contrast": lambda rows: levels(rows, np.std),
        "longer side": lambda rows: sides(rows).max(axis=1, initial=0),
        "aspect": lambda rows: sides(rows)[:, 0] / sides(rows)[:, 1],
        "positive": lambda rows: store.manifest["label"].to_numpy(dtype=float)[rows],
    }


def _by_champion(folder: Path, store: Store, sides: _Sides) -> tuple[list[Shift], str]:
    """Distances and scores by the champion, or why there are none."""
    try:
        scorer = Scorer.of(folder, store)
    except RadtransferError as error:
        return [], str(error)
    if scorer.judge.bundle.content.get("refit"):
        return [], "it was trained again on its validation images too, and has none left that it does not know"
    pairs = {side: scorer.of_rows(rows) for side, rows in (("known", sides.unlearnt), ("new", sides.new))}
    found = []
    for figure in OF_CHAMPION:
        values = {side: np.array([getattr(one, figure) for one in its], dtype=float) for side, its in pairs.items()}
        if not any(np.isnan(its).any() for its in values.values()):  # a bundle without a detector has no distances
            found.append(_shift(figure, store, (sides.unlearnt, sides.new), (values["known"], values["new"])))
    return found, ""


def _shift(
    figure: str,
    store: Store,
    rows: tuple[NDArray[np.int64], NDArray[np.int64]],
    values: tuple[NDArray[np.float64], NDArray[np.float64]],
) -> Shift:
    """Of known and new rows and what was measured of them."""
    groups = store.manifest["group_id"].to_numpy(dtype=str)[np.concatenate(rows)]
    marked = np.arange(len(groups)) >= len(rows[0])
    return shift(figure, np.concatenate(values), marked, groups)
