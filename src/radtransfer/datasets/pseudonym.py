"""Keyed pseudonyms: the same patient gets the same name in every revision, and nobody without the key gets back."""

from __future__ import annotations

import hashlib
import hmac
import os
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from radtransfer.errors import RadtransferError

VARIABLE = "RADTRANSFER_PSEUDONYM_KEY"


@dataclass(frozen=True)
class Pseudonyms:
    """HMAC-SHA256 of ids under a key, first 64 bits, hexadecimal."""

    key: bytes = field(repr=False)

    @classmethod
    def from_environment(cls, dataset: str) -> Pseudonyms:
        """Take the key from the environment; ``dataset`` is named in the error.

        Raises:
            RadtransferError: the variable is unset or holds fewer than 16 characters.
        """
        key = os.environ.get(VARIABLE, "")
        if len(key) < 16:
            raise RadtransferError(
                f"{dataset}: has patient ids, which are kept as keyed pseudonyms only, and {VARIABLE} "
                f"{'is too short' if key else 'is not set'}; set it to a secret of 16 characters or more and keep it, "
                f'e.g. export {VARIABLE}="$(openssl rand -hex 32)"'
            )
        return cls(key.encode())

    def of(self, identifier: str) -> str:
        """Pseudonym of one id."""
        return hmac.new(self.key, identifier.encode(), hashlib.sha256).hexdigest()[:16]

    def of_file(self, file: str) -> str:
        """Name for a file whose path may hold an id of whatever form: its first folder, a pseudonym, its suffix.

        What follows the last full stop of a UID is no suffix.
        """
        path = PurePosixPath(file)
        suffix = "" if path.suffix[1:].isdigit() else path.suffix.lower()
        return f"{path.parts[0]}/{self.of(f'file {file}')}{suffix}"
