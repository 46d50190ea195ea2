"""The example really learns, resumes exactly, survives being killed, and refuses bad settings in one line."""

import importlib
import itertools
import json
import math
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from jobs.launch import LaunchRequest, UserScript, render_batch_script

EXAMPLE = Path(__file__).parent.parent.parent / "examples" / "char_transformer"
TINY: dict[str, Any] = {
    "text": str(EXAMPLE / "alice29.txt"),
    "layers": 1,
    "hidden": 16,
    "heads": 2,
    "mlp": 32,
    "context": 16,
    "batch": 8,
    "steps": 60,
    "learning_rate": 0.02,
    "minimum_learning_rate": 0.002,
    "warmup_steps": 5,
    "weight_decay": 0.05,
    "gradient_clip": 1.0,
    "seed": 3,
    "log_every": 1,
    "validate_every": 30,
    "checkpoint_every": 20,
}


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> dict[str, ModuleType]:
    """The example's own modules, which are scripts beside each other and not a package."""
    monkeypatch.syspath_prepend(str(EXAMPLE))
    return {name: importlib.import_module(name) for name in ("transformer", "configuration", "checkpoints", "train")}


def start(directory: Path, *options: str, config: Any = TINY, **environment: str) -> subprocess.Popen[str]:
    path = directory / "config.json"
    path.write_text(config if isinstance(config, str) else json.dumps(config))
    return subprocess.Popen(
        [sys.executable, str(EXAMPLE / "train.py"), "--config", str(path), *options],
        cwd=directory,
        env={"PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1"} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(directory: Path, *options: str, config: Any = TINY, **environment: str) -> tuple[int, list[Any], str]:
    process = start(directory, *options, config=config, **environment)
    out, err = process.communicate(timeout=100)
    return process.returncode, [json.loads(line) for line in out.splitlines()], err


def collect_losses(lines: list[Any]) -> dict[int, tuple[float, float | None]]:
    return {line["step"]: (line["loss"], line.get("validation_loss")) for line in lines if line["event"] == "progress"}


def signal_after_progress(process: subprocess.Popen[str], number: signal.Signals) -> tuple[int, list[Any], str]:
    assert process.stdout is not None
    seen = [process.stdout.readline(), process.stdout.readline()]
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    return process.returncode, [json.loads(line) for line in "".join([*seen, out]).splitlines()], err


def test_loss_falls_below_the_uniform_baseline_and_the_log_is_complete(tmp_path: Path) -> None:
    code, lines, err = run(tmp_path, PORTAL_METRICS_FILE=str(tmp_path / "metrics" / "m.jsonl"))
    assert (code, err) == (0, "")
    assert [line["event"] for line in (lines[0], lines[-1])] == ["start", "summary"]
    progress = [line for line in lines if line["event"] == "progress"]
    assert [line["step"] for line in progress] == list(range(1, 61))
    assert set(progress[0]) == {
        "event",
        "step",
        "loss",
        "tokens",
        "tokens_per_s",
        "step_time_s",
        "elapsed_s",
        "learning_rate",
        "rss_bytes",
    }
    uniform = math.log(72)
    assert progress[0]["loss"] == pytest.approx(uniform, abs=0.1)
    assert progress[-1]["loss"] < uniform - 1
    summary = lines[-1]
    assert summary["uniform_loss"] == pytest.approx(uniform, abs=1e-4)
    assert summary["validation_loss"] < progress[29]["validation_loss"]
    assert summary["validation_loss"] < summary["unigram_loss"]
    assert (summary["is_finished"], summary["tokens"], len(summary["sample"])) == (True, 60 * 8 * 16, 200)
    assert progress[10]["rss_bytes"] > 10_000_000
    metrics = [json.loads(line) for line in (tmp_path / "metrics" / "m.jsonl").read_text().splitlines()]
    assert metrics == progress


def test_gradients_agree_with_finite_differences(modules: dict[str, ModuleType]) -> None:
    random = np.random.default_rng(0)
    dimensions = modules["transformer"].Dimensions(vocabulary=7, layers=2, hidden=8, heads=2, mlp=12, context=6)
    model = modules["transformer"].Transformer(dimensions, random, dtype=np.float64)
    # Away from the initial state, where biases and shifts are zero and scales one.
    model.parameters += random.normal(0, 0.3, model.parameters.size)
    symbols, targets = random.integers(0, 7, (2, 3, 5))
    loss = model.compute_gradients(symbols, targets)
    assert loss == pytest.approx(model.compute_loss(symbols, targets), rel=1e-12)
    gradients = model.gradients.copy()
    step = 1e-6
    measured = np.empty_like(gradients)
    for place in range(gradients.size):
        kept = model.parameters[place]
        model.parameters[place] = kept + step
        above = model.compute_loss(symbols, targets)
        model.parameters[place] = kept - step
        measured[place] = (above - model.compute_loss(symbols, targets)) / (2 * step)
        model.parameters[place] = kept
    for name, view in model.gradient_of.items():
        offset = (view.__array_interface__["data"][0] - model.gradients.__array_interface__["data"][0]) // 8
        part = slice(offset, offset + view.size)
        difference = np.abs(gradients[part] - measured[part]).max()
        assert difference < 1e-7, name
        if name != "layer0.qkv.bias":
            assert np.abs(gradients[part]).max() > 1e-4, name


def test_no_symbol_sees_a_later_one(modules: dict[str, ModuleType]) -> None:
    random = np.random.default_rng(0)
    dimensions = modules["transformer"].Dimensions(vocabulary=9, layers=2, hidden=8, heads=2, mlp=16, context=8)
    model = modules["transformer"].Transformer(dimensions, random)
    model.parameters += random.normal(0, 0.3, model.parameters.size).astype(np.float32)
    symbols = random.integers(0, 9, (1, 8))
    changed = symbols.copy()
    changed[0, 5] = (changed[0, 5] + 1) % 9
    before, after = model.compute_logits(symbols), model.compute_logits(changed)
    np.testing.assert_array_equal(before[:5], after[:5])
    assert np.abs(before[5:] - after[5:]).max(-1).min() > 1e-3


def test_learning_rate_warms_up_and_falls_to_its_minimum(modules: dict[str, ModuleType]) -> None:
    configuration = modules["configuration"].Configuration(**TINY)
    rates = [modules["train"].compute_learning_rate(configuration, step) for step in range(1, 61)]
    assert rates[0] == pytest.approx(0.004)
    assert (max(rates), rates.index(max(rates))) == (0.02, 4)
    assert rates[-1] == pytest.approx(0.002)
    assert all(later < earlier for earlier, later in itertools.pairwise(rates[4:]))


def test_resumed_run_is_bit_identical_to_an_uninterrupted_one(tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir()
    parts.mkdir()
    _, uninterrupted, _ = run(whole)
    process = start(parts, config=TINY | {"checkpoint_every": 7})
    assert process.stdout is not None
    while json.loads(process.stdout.readline()).get("step") != 24:
        pass
    process.kill()  # no chance to save: continues from an earlier step
    process.communicate(timeout=30)
    code, resumed, _ = run(parts, "--resume")
    assert code == 0
    assert 21 <= resumed[0]["step"] < 60
    first = min(collect_losses(resumed))
    expected = {step: loss for step, loss in collect_losses(uninterrupted).items() if step >= first}
    assert collect_losses(resumed) == expected
    assert resumed[-1]["sample"] == uninterrupted[-1]["sample"]
    final = "checkpoints/checkpoint-00000060.npz"
    with np.load(whole / final) as one, np.load(parts / final) as other:
        for name in ("parameters", "first_moment", "second_moment", "state"):
            np.testing.assert_array_equal(one[name], other[name], err_msg=name)


@pytest.mark.parametrize(("number", "expected"), [(signal.SIGUSR1, 0), (signal.SIGTERM, 143)])
def test_signal_saves_at_the_next_step_and_resume_finishes(
    tmp_path: Path, number: signal.Signals, expected: int
) -> None:
    process = start(tmp_path, config=TINY | {"steps": 1_000_000})
    code, lines, err = signal_after_progress(process, number)
    assert (code, err) == (expected, "")
    summary = lines[-1]
    assert (summary["is_finished"], summary["stopped_by"], summary["sample"]) == (False, number.name, None)
    assert lines[-2] == {
        "event": "checkpoint",
        "step": summary["step"],
        "path": f"checkpoints/checkpoint-{summary['step']:08d}.npz",
    }
    code, lines, _ = run(tmp_path, "--resume", "--steps", str(summary["step"] + 5))
    assert (code, lines[0]["step"], lines[-1]["step"]) == (0, summary["step"], summary["step"] + 5)


def test_two_newest_checkpoints_are_kept_in_the_portals_directory(tmp_path: Path) -> None:
    run(tmp_path, PORTAL_CHECKPOINT_DIR=str(tmp_path / "there"))
    names = sorted(path.name for path in (tmp_path / "there").iterdir())
    assert names == ["checkpoint-00000040.npz", "checkpoint-00000060.npz"]
    assert not (tmp_path / "checkpoints").exists()


def test_failed_write_leaves_the_former_checkpoints_alone(
    tmp_path: Path, modules: dict[str, ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints = modules["checkpoints"]
    for step in (1, 2):
        checkpoints.write_checkpoint(tmp_path, step=step, arrays={"a": np.arange(step)}, state={"step": step})

    def write_half(file: Any, **arrays: Any) -> None:
        file.write(b"PK\x03\x04 half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", write_half)
    with pytest.raises(OSError, match="No space"):
        checkpoints.write_checkpoint(tmp_path, step=3, arrays={"a": np.arange(3)}, state={"step": 3})
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["checkpoint-00000001.npz", "checkpoint-00000002.npz"]
    _, arrays, state = checkpoints.read_newest_checkpoint(tmp_path)
    assert (arrays["a"].tolist(), state) == ([0, 1], {"step": 2})


def test_checkpoint_is_on_disk_before_it_takes_its_name(
    tmp_path: Path, modules: dict[str, ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    real_fsync, real_replace = os.fsync, Path.replace

    def record_fsync(descriptor: int) -> None:
        events.append("directory" if Path(f"/proc/self/fd/{descriptor}").is_dir() else "file")
        real_fsync(descriptor)

    def record_replace(self: Path, target: Path) -> Path:
        events.append("rename")
        return real_replace(self, target)

    monkeypatch.setattr(os, "fsync", record_fsync)
    monkeypatch.setattr(Path, "replace", record_replace)
    modules["checkpoints"].write_checkpoint(tmp_path, step=1, arrays={"a": np.arange(3)}, state={})
    assert events == ["file", "rename", "directory"]


def test_damaged_newest_checkpoint_falls_back_to_the_one_before(tmp_path: Path) -> None:
    run(tmp_path)
    newest = tmp_path / "checkpoints" / "checkpoint-00000060.npz"
    newest.write_bytes(newest.read_bytes()[:1000])
    (tmp_path / "checkpoints" / ".checkpoint-00000080.npz.1.tmp").write_bytes(b"left by a kill")
    code, lines, _ = run(tmp_path, "--resume")
    assert (code, lines[0]["step"], lines[-1]["step"]) == (0, 40, 60)


def test_only_damaged_checkpoints_are_an_error_and_not_a_fresh_start(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "checkpoint-00000060.npz").write_bytes(b"")
    code, lines, err = run(tmp_path, "--resume")
    assert (code, lines) == (1, [])
    assert err.splitlines() == ["train.py: checkpoints: none of the 1 checkpoints can be read"]


def test_resume_without_a_checkpoint_starts_afresh(tmp_path: Path) -> None:
    code, lines, _ = run(tmp_path, "--resume", "--steps", "2")
    assert (code, lines[0]["step"], lines[0]["resumed_from"]) == (0, 0, None)


def test_resume_of_a_finished_run_trains_no_more(tmp_path: Path) -> None:
    run(tmp_path, "--steps", "20")
    code, lines, _ = run(tmp_path, "--resume", "--steps", "20")
    assert (code, [line["event"] for line in lines], lines[-1]["is_finished"]) == (0, ["start", "summary"], True)


def test_resume_of_another_model_is_refused(tmp_path: Path) -> None:
    run(tmp_path, "--steps", "20")
    code, _, err = run(tmp_path, "--resume", config=TINY | {"hidden": 32})
    assert code == 2
    assert err.startswith("train.py: hidden: 32 is not allowed; allowed: 16, that of checkpoints/")


BAD = [
    ({"layers": 0}, "layers: 0 is not allowed; allowed: a whole number from 1 to 64"),
    ({"layers": True}, "layers: True is not allowed; allowed: a whole number from 1 to 64"),
    ({"batch": 2.5}, "batch: 2.5 is not allowed; allowed: a whole number from 1 to 4096"),
    ({"steps": -1}, "steps: -1 is not allowed; allowed: a whole number from 1 to 1e+07"),
    ({"learning_rate": "fast"}, "learning_rate: 'fast' is not allowed; allowed: a number from 1e-09 to 10"),
    ({"learning_rate": float("nan")}, "learning_rate: nan is not allowed; allowed: a number from 1e-09 to 10"),
    ({"weight_decay": float("inf")}, "weight_decay: inf is not allowed; allowed: a number from 0 to 10"),
    ({"gradient_clip": None}, "gradient_clip: None is not allowed; allowed: a number from 1e-09 to 1e+09"),
    ({"heads": 3}, "heads: 3 is not allowed; allowed: a divisor of hidden (16)"),
    ({"minimum_learning_rate": 1}, "minimum_learning_rate: 1.0 is not allowed; allowed: at most learning_rate (0.02)"),
    ({"dropout": 0.1}, "dropout: is not a setting; allowed: text, layers, hidden"),
    ({"text": 3}, "text: 3 is not allowed; allowed: the path of a text file"),
    ({"text": "none.txt"}, "none.txt cannot be read: No such file or directory"),
    ({"text": "short.txt"}, "short.txt has 23 characters; allowed: about 180 or more"),
    ({"learning_rate": 10**400}, "is not allowed; allowed: a number from 1e-09 to 10"),
]


@pytest.mark.parametrize(("change", "expected"), BAD, ids=[f"{number}-{min(bad[0])}" for number, bad in enumerate(BAD)])
def test_bad_setting_is_refused_in_one_line(
    tmp_path: Path,
    modules: dict[str, ModuleType],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    change: dict[str, Any],
    expected: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(modules["train"], "StopRequest", object)  # leave this process's signals alone
    Path("short.txt").write_text("Too short to train on.\n")
    text = json.dumps(TINY | change)
    Path("config.json").write_text(text)
    assert modules["train"].main(["--config", "config.json"]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert len(shown.err.splitlines()) == 1
    assert expected in shown.err


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{", "is not JSON"),
        ("[1]", "must be a JSON object"),
        ('{"layers": 1, "layers": 2}', "layers: is given twice"),
        ('{"layers": 1}', "text: is missing"),
        ("[" * 100_000, "is not JSON"),
        ('{"layers": ' + "9" * 5000 + "}", "is not JSON"),
    ],
)
def test_file_that_is_no_configuration_is_refused_in_one_line(tmp_path: Path, text: str, expected: str) -> None:
    code, lines, err = run(tmp_path, config=text)
    assert (code, lines, len(err.splitlines())) == (2, [], 1)
    assert expected in err


def test_diverging_run_says_so_and_fails(tmp_path: Path) -> None:
    code, lines, err = run(tmp_path, config=TINY | {"learning_rate": 10, "weight_decay": 10, "warmup_steps": 0})
    assert code == 3
    assert "try a smaller learning_rate" in err.splitlines()[-1]
    assert all(math.isfinite(line["loss"]) for line in lines if line["event"] == "progress")


def test_job_script_runs_a_copy_with_the_portals_python_and_examples(tmp_path: Path) -> None:
    examples = tmp_path / "examples"
    shutil.copytree(EXAMPLE, examples / "char_transformer", ignore=shutil.ignore_patterns("__pycache__"))
    config = json.loads((EXAMPLE / "config.json").read_text()) | {"batch": 1, "warmup_steps": 1}
    (examples / "char_transformer" / "config.json").write_text(json.dumps(config))
    (tmp_path / "job").mkdir()
    shutil.copy(EXAMPLE / "job.sh", tmp_path / "job" / "user_script")
    environment = {"PATH": os.environ["PATH"], "PORTAL_PYTHON": sys.executable, "PORTAL_EXAMPLES": str(examples)}
    command = [str(tmp_path / "job" / "user_script"), "--steps", "2"]
    done = subprocess.run(
        command, cwd=tmp_path / "job", env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    assert json.loads(done.stdout.splitlines()[-1])["step"] == 2
    assert (tmp_path / "job" / "checkpoints" / "checkpoint-00000002.npz").exists()


def test_rendered_job_is_warned_saves_and_goes_on_in_the_next_segment(tmp_path: Path) -> None:
    """As on a cluster: two batch scripts, one directory of checkpoints, the warning signal between them."""
    environment = {
        "PATH": os.environ["PATH"],
        "PORTAL_PYTHON": sys.executable,
        "PORTAL_EXAMPLES": str(EXAMPLE.parent),
        "PORTAL_CHECKPOINT_DIR": str(tmp_path / "checkpoints"),
    }
    steps = []
    for segment in ("1", "2"):
        request = LaunchRequest(
            key=f"5f0c1d2e-{segment}",
            name="char_transformer",
            partition="cpu",
            nodes=1,
            devices_per_node=0,
            cpus_per_node=1,
            time_limit_minutes=10,
            signal_name="USR1",
            signal_lead_s=60,
            entry=UserScript((EXAMPLE / "job.sh").read_text()),
        )
        directory = tmp_path / segment
        directory.mkdir()
        (directory / "batch.sh").write_text(render_batch_script(request).script)
        process = subprocess.Popen(
            ["bash", "batch.sh"],
            cwd=directory,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        code, lines, err = signal_after_progress(process, signal.SIGUSR1)
        assert (code, err, lines[-1]["stopped_by"]) == (0, "", "SIGUSR1")
        metrics = (directory / "metrics.jsonl").read_text().splitlines()
        assert [json.loads(line)["event"] for line in metrics] == ["progress"] * len(metrics)
        steps += [lines[0]["step"], lines[-1]["step"]]
    assert 0 == steps[0] < steps[1] == steps[2] < steps[3]


def test_shipped_text_is_the_one_the_readme_names(modules: dict[str, ModuleType]) -> None:
    corpus = modules["train"].read_corpus(EXAMPLE / "alice29.txt", context=64)
    assert corpus.sha256 in (EXAMPLE / "README.md").read_text()
    assert (len(corpus.symbols), corpus.dropped_characters) == (72, 3609)
