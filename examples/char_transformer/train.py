"""Train a small character-level language model. See README.md for the log lines, signals and exit codes."""

import argparse
import hashlib
import json
import math
import os
import signal
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any, TextIO

# Before NumPy is imported. With matrices this small a second thread gains nothing, and costs a lot on busy cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from checkpoints import NoReadableCheckpoint, read_newest_checkpoint, write_checkpoint
from configuration import Configuration, InvalidConfiguration, read_configuration
from numpy.typing import NDArray
from transformer import AdamW, Dimensions, Transformer

EXIT_FAILED = 1
EXIT_BAD_CONFIGURATION = 2
EXIT_DIVERGED = 3

VALIDATION_SHARE = 0.1
VALIDATION_SEQUENCES = 128
SAMPLE_CHARACTERS = 200
SAMPLE_TEMPERATURE = 0.7
MAY_DIFFER_ON_RESUME = frozenset({"text", "steps", "log_every", "validate_every", "checkpoint_every"})


class Diverged(Exception):
    """The loss is no longer a number."""


@dataclass(frozen=True, slots=True)
class Corpus:
    """A text as symbols: the first part to train on, the rest to validate on."""

    symbols: str
    training: NDArray[Any]
    validation: NDArray[Any]
    sha256: str
    dropped_characters: int

    @property
    def unigram_loss(self) -> float:
        """Nats per character of the validation text when only the frequency of symbols is known."""
        counts = np.bincount(self.training, minlength=len(self.symbols)) + 1
        return float(-np.log(counts / counts.sum())[self.validation].mean())


class Log:
    """JSON lines to standard output; the points of the curves (`progress`) also to PORTAL_METRICS_FILE if set."""

    def __init__(self) -> None:
        path = os.environ.get("PORTAL_METRICS_FILE")
        self._metrics: TextIO | None = None
        if path:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            self._metrics = Path(path).open("a", encoding="utf-8")  # noqa: SIM115 - for the whole run

    def write(self, event: str, **values: Any) -> None:
        """Write one line at once, so that a reader sees it live."""
        line = json.dumps({"event": event, **values}, ensure_ascii=False)
        print(line, flush=True)
        if self._metrics is not None and event == "progress":
            self._metrics.write(line + "\n")
            self._metrics.flush()


class StopRequest:
    """Remembers the signal that asked to stop; training looks at it between steps."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        for number in (signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, self._remember)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        # A cancellation outweighs the warning before the time limit, whichever comes first.
        if self.signal is not signal.SIGTERM:
            self.signal = signal.Signals(number)


class Trainer:
    """One run: model, optimizer and random state move on together, step by step."""

    def __init__(self, configuration: Configuration, corpus: Corpus) -> None:
        self.configuration = configuration
        self.corpus = corpus
        self.random = np.random.default_rng(configuration.seed)
        dimensions = Dimensions(
            vocabulary=len(corpus.symbols),
            layers=configuration.layers,
            hidden=configuration.hidden,
            heads=configuration.heads,
            mlp=configuration.mlp,
            context=configuration.context,
        )
        self.model = Transformer(dimensions, self.random)
        self.optimizer = AdamW(
            self.model, weight_decay=configuration.weight_decay, gradient_clip=configuration.gradient_clip
        )
        self.step = 0

    def take_step(self) -> float:
        """Train on one batch; return its loss."""
        symbols, targets = draw_sequences(
            self.corpus.training, self.random, count=self.configuration.batch, length=self.configuration.context
        )
        loss = self.model.compute_gradients(symbols, targets)
        if not math.isfinite(loss):
            raise Diverged(f"the loss is {loss} at step {self.step + 1}: try a smaller learning_rate")
        self.step += 1
        self.optimizer.update(step=self.step, learning_rate=compute_learning_rate(self.configuration, self.step))
        return loss

    def validate(self) -> float:
        """Return the mean loss over the same validation sequences each time."""
        length = self.configuration.context
        last = self.corpus.validation.size - length - 1
        starts = np.unique(np.linspace(0, last, VALIDATION_SEQUENCES).astype(int))
        windows = self.corpus.validation[starts[:, None] + np.arange(length + 1)]
        # A training batch at a time, so that validation needs no more memory than training does.
        total = 0.0
        for begin in range(0, len(windows), self.configuration.batch):
            part = windows[begin : begin + self.configuration.batch]
            total += self.model.compute_loss(part[:, :-1], part[:, 1:]) * len(part)
        return total / len(windows)

    def sample(self, count: int = SAMPLE_CHARACTERS) -> str:
        """Let the model write `count` characters, from a random state of its own."""
        random = np.random.default_rng(self.configuration.seed)
        written = [self.corpus.symbols.index("\n") if "\n" in self.corpus.symbols else 0]
        for _ in range(count):
            recent = np.array([written[-self.configuration.context :]])
            scores = self.model.compute_logits(recent)[-1].astype(np.float64) / SAMPLE_TEMPERATURE
            odds = np.exp(scores - scores.max())
            written.append(int(random.choice(odds.size, p=odds / odds.sum())))
        return "".join(self.corpus.symbols[symbol] for symbol in written[1:])

    def save(self, directory: Path) -> Path:
        """Write a checkpoint with all that the next step depends on."""
        arrays = {
            "parameters": self.model.parameters,
            "first_moment": self.optimizer.first_moment,
            "second_moment": self.optimizer.second_moment,
        }
        state = {"step": self.step, "random": self.random.bit_generator.state, **self._identity()}
        return write_checkpoint(directory, step=self.step, arrays=arrays, state=state)

    def load(self, directory: Path) -> Path | None:
        """Continue from the newest checkpoint; return its path, or None if there is none.

        Raises InvalidConfiguration if it belongs to another model or text.
        """
        found = read_newest_checkpoint(directory)
        if found is None:
            return None
        path, arrays, state = found
        for name, value in self._identity().items():
            if state.get(name) != value:
                raise InvalidConfiguration(
                    f"{name}: {value} is not allowed; allowed: {state.get(name)}, that of {path} which --resume found"
                )
        self.model.parameters[...] = arrays["parameters"]
        self.optimizer.first_moment[...] = arrays["first_moment"]
        self.optimizer.second_moment[...] = arrays["second_moment"]
        self.random.bit_generator.state = state["random"]
        self.step = state["step"]
        return path

    def _identity(self) -> dict[str, Any]:
        settings = asdict(self.configuration)
        fixed = {name: value for name, value in settings.items() if name not in MAY_DIFFER_ON_RESUME}
        return fixed | {"text_sha256": self.corpus.sha256}


def read_corpus(path: Path, *, context: int) -> Corpus:
    """Read a text, with any line ends made LF and a DOS end-of-file mark (Ctrl-Z) at the end dropped.

    Raises InvalidConfiguration if it can't be read or is too short.
    """
    try:
        data = path.read_bytes()
        raw = data.decode("utf-8")
    except OSError as error:
        raise InvalidConfiguration(f"text: {path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise InvalidConfiguration(f"text: {path} is not UTF-8: byte {error.start}") from None
    text = raw.replace("\r\n", "\n").replace("\r", "\n").removesuffix("\x1a")
    split = int(len(text) * (1 - VALIDATION_SHARE))
    if len(text) - split < context + 2:
        shortest = math.ceil((context + 2) / VALIDATION_SHARE)
        raise InvalidConfiguration(f"text: {path} has {len(text)} characters; allowed: about {shortest} or more")
    points, encoded = np.unique(np.array(list(text)), return_inverse=True)
    return Corpus(
        symbols="".join(points),
        training=encoded[:split],
        validation=encoded[split:],
        sha256=hashlib.sha256(data).hexdigest(),
        dropped_characters=len(raw) - len(text),
    )


def draw_sequences(
    symbols: NDArray[Any], random: np.random.Generator, *, count: int, length: int
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return `count` random stretches of `length` symbols, and the same moved on by one."""
    starts = random.integers(0, symbols.size - length, count)
    windows = symbols[starts[:, None] + np.arange(length + 1)]
    return windows[:, :-1], windows[:, 1:]


def compute_learning_rate(configuration: Configuration, step: int) -> float:
    """Linear warm-up, then half a cosine down to the minimum at the last step; `step` counts from 1."""
    if step <= configuration.warmup_steps:
        return configuration.learning_rate * step / configuration.warmup_steps
    rest = max(1, configuration.steps - configuration.warmup_steps)
    progress = min(1.0, (step - configuration.warmup_steps) / rest)
    low, high = configuration.minimum_learning_rate, configuration.learning_rate
    return low + (high - low) * 0.5 * (1 + math.cos(math.pi * progress))


def measure_rss_bytes() -> int:
    """Return this process's resident memory, see proc_pid_statm(5)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def train(trainer: Trainer, *, directory: Path, log: Log, stop: StopRequest) -> int:
    """Train to the last step or to a signal; return the exit code."""
    configuration = trainer.configuration
    began = time.perf_counter()
    first_step = trainer.step
    losses: list[float] = []
    training_s = interval_s = 0.0
    validation_loss = math.nan
    saved_at = -1
    while trainer.step < configuration.steps and stop.signal is None:
        step_began = time.perf_counter()
        losses.append(trainer.take_step())
        interval_s += time.perf_counter() - step_began
        step = trainer.step
        is_last = step == configuration.steps
        extra = {}
        if step % configuration.validate_every == 0 or is_last:
            validation_loss = trainer.validate()
            extra["validation_loss"] = round(validation_loss, 5)
        if step % configuration.log_every == 0 or is_last or extra:
            log.write(
                "progress",
                step=step,
                loss=round(sum(losses) / len(losses), 5),
                tokens=step * configuration.tokens_per_step,
                tokens_per_s=round(len(losses) * configuration.tokens_per_step / interval_s, 1),
                step_time_s=round(interval_s / len(losses), 6),
                elapsed_s=round(time.perf_counter() - began, 3),
                learning_rate=compute_learning_rate(configuration, step),
                rss_bytes=measure_rss_bytes(),
                **extra,
            )
            training_s += interval_s
            interval_s = 0.0
            losses = []
        if step % configuration.checkpoint_every == 0 or is_last:
            saved_at = step
            log.write("checkpoint", step=step, path=str(trainer.save(directory)))
    is_finished = trainer.step >= configuration.steps
    if trainer.step not in (saved_at, first_step):
        log.write("checkpoint", step=trainer.step, path=str(trainer.save(directory)))
    training_s += interval_s
    if math.isnan(validation_loss) and is_finished:
        validation_loss = trainer.validate()
    log.write(
        "summary",
        is_finished=is_finished,
        stopped_by=None if is_finished or stop.signal is None else stop.signal.name,
        step=trainer.step,
        tokens=trainer.step * configuration.tokens_per_step,
        tokens_per_s=round((trainer.step - first_step) * configuration.tokens_per_step / max(training_s, 1e-9), 1),
        elapsed_s=round(time.perf_counter() - began, 3),
        validation_loss=None if math.isnan(validation_loss) else round(validation_loss, 5),
        uniform_loss=round(math.log(len(trainer.corpus.symbols)), 5),
        unigram_loss=round(trainer.corpus.unigram_loss, 5),
        sample=trainer.sample() if is_finished else None,
    )
    if is_finished or stop.signal is not signal.SIGTERM:
        return 0
    return 128 + signal.SIGTERM


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line, train, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="JSON file with the settings")
    parser.add_argument("--steps", type=int, help="train this many steps in all, whatever the file says")
    parser.add_argument("--resume", action="store_true", help="continue from the newest checkpoint, if there is one")
    options = parser.parse_args(arguments)
    stop = StopRequest()
    directory = Path(os.environ.get("PORTAL_CHECKPOINT_DIR") or "checkpoints")
    try:
        configuration = read_configuration(options.config, steps=options.steps)
        corpus = read_corpus(options.config.parent / configuration.text, context=configuration.context)
        trainer = Trainer(configuration, corpus)
        resumed_from = trainer.load(directory) if options.resume else None
        log = Log()
        log.write(
            "start",
            parameters=trainer.model.parameters.size,
            vocabulary=len(corpus.symbols),
            training_characters=corpus.training.size,
            validation_characters=corpus.validation.size,
            dropped_characters=corpus.dropped_characters,
            text_sha256=corpus.sha256,
            step=trainer.step,
            resumed_from=str(resumed_from) if resumed_from else None,
            blas_threads=os.environ.get("OPENBLAS_NUM_THREADS") or os.environ["OMP_NUM_THREADS"],
            configuration=asdict(configuration),
        )
        return train(trainer, directory=directory, log=log, stop=stop)
    except InvalidConfiguration as error:
        print(f"train.py: {error}", file=sys.stderr)
        return EXIT_BAD_CONFIGURATION
    except Diverged as error:
        print(f"train.py: {error}", file=sys.stderr)
        return EXIT_DIVERGED
    except (OSError, MemoryError, NoReadableCheckpoint) as error:
        print(f"train.py: {error}", file=sys.stderr)
        return EXIT_FAILED


if __name__ == "__main__":
    sys.exit(main())
