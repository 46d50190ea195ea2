"""How a watched job goes: a bar on a terminal, a line for each change elsewhere, JSON Lines for programs."""

import time
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Final

from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn

from portalctl.client import Job
from portalctl.output import duration, hours, plain
from portalctl.session import Session

_LINE_EVERY_S: Final = 10.0


class Watcher:
    """Shows looks at one job, in the way that suits where the words go."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._console = session.out()
        self._state = ""
        self._reason = ""
        self._point: dict[str, float] = {}
        self._line_at = float("-inf")
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        if self._console.is_terminal and not session.as_json:
            self._bar = Progress(
                SpinnerColumn(),
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=None),
                TextColumn("{task.fields[words]}", markup=False),
                console=self._console,
                transient=True,
            )

    def __enter__(self) -> "Watcher":
        if self._bar is not None:
            self._bar.start()
            self._task = self._bar.add_task("", total=None, words="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def look(self, job: Job, points: list[dict[str, float]]) -> None:
        """One look; `points` are the metrics that are new."""
        if points:
            self._point = points[-1]
        is_change = (job.state, job.reason) != (self._state, self._reason)
        self._state, self._reason = job.state, job.reason
        if self._session.as_json:
            if is_change or points:
                self._session.print_json_line(_as_line(job, self._point))
            return
        if is_change:
            self._say(job.state, "" if job.is_terminal and job.state == "COMPLETED" else job.reason_text)
        if self._bar is not None and self._task is not None:
            total = job.estimate.steps if job.estimate else None
            self._bar.update(
                self._task,
                description=plain(job.state),
                total=total,
                completed=min(self._point.get("step", 0.0), float(total or 0)),
                words="  ".join(part for part in (self._progress(job), _since(job)) if part),
            )
        elif points and time.monotonic() - self._line_at >= _LINE_EVERY_S:
            self._line_at = time.monotonic()
            self._say(self._progress(job), "")

    def finish(self, job: Job) -> None:
        """The last words."""
        if self._session.as_json:
            self._session.print_json_line(_as_line(job, self._point))
            return
        if self._point:
            self._say(self._progress(job), "")
        words = [f"{job.state}"]
        if job.exit_code is not None:
            words.append(f"exit code {job.exit_code}")
        if job.usage is not None:
            words.append(f"ran {duration(job.usage.elapsed_s)}")
        if job.charged_hours is not None:
            words.append(f"charged {hours(job.charged_hours)} h")
        self._say(", ".join(words), "")

    def _progress(self, job: Job) -> str:
        step = self._point.get("step")
        if step is None:
            return ""
        total = f"/{job.estimate.steps}" if job.estimate else ""
        figures = [f"step {step:.0f}{total}"]
        if "loss" in self._point:
            figures.append(f"loss {self._point['loss']:.4g}")
        if "tokens_per_s" in self._point:
            figures.append(f"{self._point['tokens_per_s']:,.0f} tokens/s")
        return "  ".join(figures)

    def _say(self, what: str, why: str) -> None:
        if not what:
            return
        text = f"{time.strftime('%H:%M:%S')}  {plain(what)}"
        self._console.print(f"{text}  {plain(why)}" if why else text, soft_wrap=True)


def _since(job: Job) -> str:
    """How long it has run, or waited."""
    start = job.started_at or job.submitted_at
    seconds = max(((job.ended_at or datetime.now(UTC)) - start).total_seconds(), 0)
    return duration(seconds)


def _as_line(job: Job, point: dict[str, float]) -> dict[str, Any]:
    data = job.model_dump(mode="json", include={"id", "name", "state", "reason", "reason_text", "is_terminal"})
    figures = job.model_dump(mode="json", include={"exit_code", "charged_s", "reserved_s", "started_at", "ended_at"})
    return {**data, **figures, "metrics": point}
