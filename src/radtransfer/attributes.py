"""What may be known of an image beside its label: groups of patients, views and devices, and nothing that names one.

Only what :data:`ATTRIBUTES` lists leaves a data set, in the values that are described there: an age as a band, all else
as a few plain words. In a store an attribute is written ``name=value``, which is also the ``subgroup`` of a result.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Mapping

from radtransfer.errors import RadtransferError

AGES = (("0-1", 2), ("2-11", 12), ("12-17", 18), ("18-39", 40), ("40-64", 65), ("65+", 120))
"""Bands of age and the years below which each ends: those of ICH E11 for children and of ICH E7 for the old, adults
parted at 40."""
MAX_VALUES = 20
"""Texts that a data set may have for an attribute in free words; more may be identifiers."""
_PLAIN = re.compile(r"[^\W_][\w +.&/-]{0,30}", re.ASCII)
_YEARS = re.compile(r"0*(\d{1,3}(?:\.\d+)?)[Yy]?")
_YES = {"1": "yes", "1.0": "yes", "yes": "yes", "y": "yes", "true": "yes"}
_YES |= {"0": "no", "0.0": "no", "no": "no", "n": "no", "false": "no"}
_SEXES = {"f": "female", "female": "female", "w": "female", "m": "male", "male": "male", "o": "other", "other": "other"}
_SIDES = {"l": "left", "left": "left", "r": "right", "right": "right", "b": "both", "both": "both"}


def _age(text: str) -> str | None:
    found = _YEARS.fullmatch(text)
    return next((band for band, end in AGES if found and float(found[1]) < end), None)


def _plain(text: str) -> str | None:
    return text if _PLAIN.fullmatch(text) else None


def _one_of(words: Mapping[str, str]) -> Callable[[str], str | None]:
    return lambda text: words.get(text.lower())


_YES_OR_NO = _one_of(_YES)
ATTRIBUTES: dict[str, Callable[[str], str | None]] = {
    "hardware": _YES_OR_NO,
    "cast": _YES_OR_NO,
    "osteopenia": _YES_OR_NO,
    "diagnosis_uncertain": _YES_OR_NO,
    "several_parts": _YES_OR_NO,
    "several_scans": _YES_OR_NO,
    "view": _plain,
    "side": _one_of(_SIDES),
    "age": _age,
    "sex": _one_of(_SEXES),
    "manufacturer": _plain,
    "site": _plain,
}
"""What an attribute's text becomes; None: it says nothing that may be kept."""


class Attributes:
    """Of the images of one data set.

    Args:
        where: the data set, as errors name it.
    """

    def __init__(self, where: str) -> None:
        self._where = where
        self._texts: dict[str, set[str]] = defaultdict(set)

    def of(self, texts: Mapping[str, str]) -> tuple[str, ...]:
        """What is known of an image, ``name=value`` each, in the order of :data:`ATTRIBUTES`.

        Args:
            texts: by attribute, as the data set has them: an age in years (``14.1`` or ``014Y``), ``yes`` or ``1``,
                ...; what is empty, or no such value, is left out.

        Raises:
            KeyError: a name that is no attribute.
            RadtransferError: with this image an attribute in free words has more than :data:`MAX_VALUES` texts, of
                which those count, too, that are left out.
        """
        texts = {name: text.strip() for name, text in texts.items()}
        found = {name: ATTRIBUTES[name](text) for name, text in texts.items()}
        for name, text in texts.items():
            if text and ATTRIBUTES[name] is _plain:
                self._texts[name].add(text)
                if len(self._texts[name]) > MAX_VALUES:
                    raise RadtransferError(
                        f"{self._where}: more than {MAX_VALUES} different texts for the attribute {name!r}, which may "
                        "be identifiers: name another column for it, or fewer groups in this one"
                    )
        return tuple(f"{name}={found[name]}" for name in ATTRIBUTES if found.get(name))


def order(attribute: str) -> tuple[int, int, str]:
    """Where ``name=value`` stands in a list: by name as in :data:`ATTRIBUTES`, ages by age, other values by letter."""
    name, _, value = attribute.partition("=")
    bands = [band for band, _ in AGES]
    return list(ATTRIBUTES).index(name), bands.index(value) if name == "age" else 0, value
