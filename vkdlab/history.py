"""What happened in a training, epoch by epoch (ours)."""

from __future__ import annotations

import csv
import os
from typing import TYPE_CHECKING

from .files import atomic_path

if TYPE_CHECKING:
    import pandas as pd


class History:
    """What happened, epoch by epoch.

    Attributes:
        rows: one dict an epoch: `epoch` (from 1), `step`, `lr`, `seconds`, `loss/<term>` (mean over the samples of the
            epoch) and `val/<metric>`.
        best_epoch: the epoch whose weights were kept.
    """

    def __init__(self, rows: list[dict[str, int | float]], *, best_epoch: int) -> None:
        self.rows = rows
        self.best_epoch = best_epoch

    def __repr__(self) -> str:
        return f"History({len(self.rows)} epochs, best {self.best_epoch})"

    @property
    def best(self) -> dict[str, int | float]:
        """The row of the best epoch."""
        return self.rows[self.best_epoch - 1]

    def frame(self) -> pd.DataFrame:
        """The rows as a table."""
        import pandas as pd  # half a second that a training does without

        return pd.DataFrame(self.rows)

    def save(self, path: str | os.PathLike) -> None:
        """Writes the rows as CSV, atomically; numbers keep all their digits."""
        with atomic_path(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, fieldnames=list(dict.fromkeys(name for row in self.rows for name in row)))
            writer.writeheader()
            writer.writerows(self.rows)

    @classmethod
    def load(cls, path: str | os.PathLike, *, best_epoch: int) -> History:
        """Reads what `save` wrote."""
        with open(path, newline="", encoding="utf-8") as file:
            rows = [{name: _number(text) for name, text in row.items() if text} for row in csv.DictReader(file)]
        return cls(rows, best_epoch=best_epoch)


def _number(text: str) -> int | float:
    try:
        return int(text)
    except ValueError:
        return float(text)
