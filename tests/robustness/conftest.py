"""The miniature run that explanations are tested on."""

from tests.explain.conftest import mini_run

__all__ = ["mini_run"]
