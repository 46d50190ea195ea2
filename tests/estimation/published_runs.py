"""The published runs that accuracy is measured on (catalog/published_runs.csv), beside what the engine predicts."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from jobs.estimation.accuracy import Score, benchmark, score_runs
from jobs.estimation.prediction import PUBLISHED_RUNS
from jobs.estimation.run_table import Refused, Run, read_runs
from jobs.estimation.uncertainty import load_evidence
from tests.estimation.fit import is_scored


def is_weighed(run: Run) -> bool:
    """Whether a run's memory is scored: `use_for` memory, tier A or B."""
    return run.memory_bytes is not None and "memory" in run.use_for and run.tier in "AB"


@cache
def read_published_rows() -> tuple[Run | Refused, ...]:
    """Every row of the table, read once a process."""
    return tuple(read_runs(PUBLISHED_RUNS))


def read_scored_runs() -> list[Run]:
    """The rows whose step time or memory is scored."""
    rows = read_published_rows()
    return [row for row in rows if isinstance(row, Run) and (is_scored(row) or is_weighed(row))]


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """All that docs/estimation.md shows: the benchmark, each scored row beside its prediction, and who was refused."""

    tables: Mapping[str, Any]
    scores: Sequence[Score]
    refused: Sequence[Refused]

    @property
    def timed(self) -> list[Score]:
        """Scores of step time."""
        return [score for score in self.scores if is_scored(score.run)]

    @property
    def weighed(self) -> list[Score]:
        """Scores of memory."""
        return [score for score in self.scores if is_weighed(score.run)]

    def list_worst(self, count: int) -> list[Score]:
        """The rows whose step time is furthest off with their source left out, worst first."""
        timed = [(score, abs(math.log(score.held_out_step_ratio))) for score in self.timed if score.held_out_step_ratio]
        return [score for score, _ in sorted(timed, key=lambda item: (-item[1], item[0].run.id))[:count]]


@cache
def measure_accuracy() -> Accuracy:
    """Predict and score every published run, once a process."""
    return Accuracy(
        tables=benchmark(),
        scores=score_runs(read_scored_runs(), evidence=load_evidence()),
        refused=[row for row in read_published_rows() if isinstance(row, Refused)],
    )
