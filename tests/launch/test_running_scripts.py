"""Rendered scripts, really run by bash: values come back exactly, signals and exit codes get through."""

import json
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jobs.launch import (
    STARTED_TWICE_EXIT_CODE,
    Command,
    LaunchRequest,
    Plan,
    UserScript,
    render_batch_script,
)
from jobs.launch.user_script import choose_delimiter
from jobs.spec import InvalidSpec

from .launch_requests import make_request

PRINT_ARGUMENTS = "import json, os, sys; print(json.dumps([sys.argv[1:], dict(os.environ)]))"
HOSTILE_VALUES = [
    "",
    " ",
    "it's",
    '"double"',
    "$(touch injected)",
    "`touch injected`",
    "${HOME}",
    "; touch injected;",
    "& touch injected &",
    "| touch injected",
    "> injected",
    "-rf",
    "--",
    "\\",
    "\\n",
    "%s%j",
    "*",
    "~",
    "~root",
    "!!",
    "#SBATCH --nodes=64",
    "a b  c",
    "{a,b}",
    "模型 é ✓",
    "=",
    "'\"'\"'",
]


def start(request: LaunchRequest, directory: Path, **environment: str) -> subprocess.Popen[bytes]:
    """Run the script as a backend would: a process in the job's directory with a small environment."""
    (directory / "batch.sh").write_text(render_batch_script(request).script, newline="")
    return subprocess.Popen(
        ["bash", "batch.sh"],
        cwd=directory,
        env={"PATH": os.environ["PATH"], "HOME": "/nonexistent", "LC_ALL": "C.UTF-8"} | environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def run(request: LaunchRequest, directory: Path, **environment: str) -> tuple[int, str, str]:
    process = start(request, directory, **environment)
    out, err = process.communicate(timeout=60)
    return process.returncode, out.decode(), err.decode()


def wait_for(path: Path, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 30
    while not path.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, f"{path.name} never came"
        time.sleep(0.01)


def test_hostile_arguments_and_variables_come_back_exactly(tmp_path: Path) -> None:
    environment = {f"VALUE_{number}": value for number, value in enumerate(HOSTILE_VALUES)}
    request = make_request(
        entry=Command((sys.executable, "-c", PRINT_ARGUMENTS, *HOSTILE_VALUES)), environment=environment
    )
    code, out, err = run(request, tmp_path)
    assert (code, err) == (0, "")
    arguments, seen = json.loads(out)
    assert arguments == HOSTILE_VALUES
    assert {name: seen[name] for name in environment} == environment
    assert sorted(path.name for path in tmp_path.iterdir()) == ["batch.sh"]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(words=st.lists(st.text(max_size=30), min_size=1, max_size=5), value=st.text(max_size=60))
def test_any_argument_and_variable_comes_back_exactly(tmp_path: Path, words: list[str], value: str) -> None:
    try:
        request = make_request(
            entry=Command((sys.executable, "-S", "-c", PRINT_ARGUMENTS, *words)), environment={"USER_VALUE": value}
        )
    except InvalidSpec:
        return
    code, out, err = run(request, tmp_path)
    assert (code, err) == (0, "")
    arguments, seen = json.loads(out)
    assert arguments == words
    assert seen["USER_VALUE"] == value


def test_every_variable_name_is_refused_or_exported(tmp_path: Path) -> None:
    """bash's own variables included: those it would swallow must have been refused."""
    listed = subprocess.run(
        ["bash", "-c", "compgen -v"], capture_output=True, check=True, text=True, timeout=20, env={}
    )
    extra = {"LANG", "LC_ALL", "EDITOR", "MAIL", "MAILPATH", "INPUTRC", "EMACS", "TMPDIR", "MACHTYPE", "A", "a_1"}
    accepted = {}
    for name in sorted({*listed.stdout.split(), *extra}):
        try:
            make_request(environment={name: "C"})
        except InvalidSpec:
            continue
        accepted[name] = "C"
    assert {"LANG", "A", "a_1", "TMPDIR"} <= set(accepted)
    assert not {"SHELLOPTS", "UID", "RANDOM", "BASH_ENV", "PATH"} & set(accepted)
    code, out, err = run(
        make_request(entry=Command((sys.executable, "-S", "-c", PRINT_ARGUMENTS)), environment=accepted), tmp_path
    )
    assert code == 0, err
    seen = json.loads(out)[1]
    assert {name: seen.get(name) for name in accepted} == accepted


def test_plan_and_resources_are_exported(tmp_path: Path) -> None:
    plan = Plan(tensor_parallel=2, data_parallel=4, micro_batch_size=3, gradient_accumulation_steps=5, precision="bf16")
    request = make_request(entry=Command((sys.executable, "-c", PRINT_ARGUMENTS)), plan=plan, cpus_per_node=64)
    _, out, _ = run(request, tmp_path, PORTAL_CHECKPOINT_DIR="/data/checkpoints")
    seen = json.loads(out)[1]
    portal = {name: value for name, value in seen.items() if name.startswith("PORTAL_")}
    assert portal == {
        "PORTAL_JOB_KEY": request.key,
        "PORTAL_NODES": "1",
        "PORTAL_DEVICES_PER_NODE": "8",
        "PORTAL_TENSOR_PARALLEL": "2",
        "PORTAL_PIPELINE_PARALLEL": "1",
        "PORTAL_DATA_PARALLEL": "4",
        "PORTAL_CONTEXT_PARALLEL": "1",
        "PORTAL_EXPERT_PARALLEL": "1",
        "PORTAL_MICRO_BATCH_SIZE": "3",
        "PORTAL_GRADIENT_ACCUMULATION_STEPS": "5",
        "PORTAL_GLOBAL_BATCH_SIZE": "60",
        "PORTAL_ZERO_STAGE": "0",
        "PORTAL_PRECISION": "bf16",
        "PORTAL_METRICS_FILE": str(tmp_path / "metrics.jsonl"),
        "PORTAL_CHECKPOINT_DIR": "/data/checkpoints",
    }
    assert seen["OMP_NUM_THREADS"] == "8"


def test_users_own_thread_count_wins(tmp_path: Path) -> None:
    request = make_request(
        entry=Command(("printenv", "OMP_NUM_THREADS")), cpus_per_node=64, environment={"OMP_NUM_THREADS": "3"}
    )
    assert run(request, tmp_path)[:2] == (0, "3\n")


@pytest.mark.parametrize("restarts", ["0", "1"])
def test_what_the_scheduler_starts_a_second_time_does_nothing(tmp_path: Path, restarts: str) -> None:
    request = make_request(entry=Command(("touch", "--date=now", "ran")))
    assert run(request, tmp_path, SLURM_JOB_ID="7")[0] == 0
    (tmp_path / "ran").unlink()
    code, _, err = run(request, tmp_path, SLURM_JOB_ID="7", SLURM_RESTART_COUNT=restarts)
    assert (code, "not run a second time" in err) == (STARTED_TWICE_EXIT_CODE, True)
    assert not (tmp_path / "ran").exists()


def test_exit_code_of_a_command_is_the_jobs(tmp_path: Path) -> None:
    assert run(make_request(entry=Command(("bash", "-c", "exit 41"))), tmp_path)[0] == 41


def test_missing_program_fails_with_127(tmp_path: Path) -> None:
    code, _, err = run(make_request(entry=Command(("no-such-program",))), tmp_path)
    assert code == 127
    assert "no-such-program" in err


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("#!/bin/bash\necho one\n", "one\n"),
        ("#!/bin/bash\necho no newline", "no newline\n"),
        ("#!/bin/bash\r\necho dos\r\n", "dos\n"),
        ("#!/bin/bash\ncat <<EOF\n$((6*7))\nEOF\n", "42\n"),
        ("#!/usr/bin/env python3\nimport sys\nprint('`$HOME` \\'x\\'', sys.argv[1:])\n", "`$HOME` 'x' []\n"),
        ("#!/bin/bash\necho a; echo '\x01\x7f\u2028'\n", "a\n\x01\x7f\u2028\n"),
        ('#!/bin/bash\nset -u\necho "${UNSET-}$-" | grep -c e\n', "0\n"),
        ("#! /bin/cat\n\n\n", "#! /bin/cat\n\n\n"),
    ],
)
def test_user_script_runs_as_it_was_written(tmp_path: Path, text: str, expected: str) -> None:
    _, out, err = run(make_request(entry=UserScript(text)), tmp_path)
    assert (out, err) == (expected, "")


def test_line_that_equals_the_delimiter_does_not_end_the_script(tmp_path: Path) -> None:
    # The script names the word that would be chosen for it if the word weren't in it: the word must move on.
    body = ["#!/bin/bash", "echo start"]
    for _ in range(3):
        body.append(choose_delimiter(body))
    first = choose_delimiter(body).rsplit("_", 1)[0]
    assert choose_delimiter(body) not in body
    text = "#!/bin/cat\n" + "\n".join([*body, first, choose_delimiter(body)]) + "\n"
    assert run(make_request(entry=UserScript(text)), tmp_path)[:2] == (0, text)


def test_delimiter_moves_on_when_a_line_takes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    class FixedDigest:
        def hexdigest(self) -> str:
            return "0" * 64

    monkeypatch.setattr("jobs.launch.user_script.hashlib.sha256", lambda data: FixedDigest())
    word = "END_OF_USER_SCRIPT_" + "0" * 16
    assert choose_delimiter(["a"]) == word
    assert choose_delimiter([word]) == f"{word}_1"
    assert choose_delimiter([word, f"{word}_1"]) == f"{word}_2"


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=st.text(max_size=300))
def test_user_script_reaches_the_interpreter_byte_for_byte(tmp_path: Path, body: str) -> None:
    try:
        request = make_request(entry=UserScript("#!/bin/cat\n" + body))
    except InvalidSpec:
        return
    text = ("#!/bin/cat\n" + body).replace("\r\n", "\n")
    code, out, err = run(request, tmp_path)
    assert (code, err) == (0, "")
    assert out == text if text.endswith("\n") else text + "\n"


def test_large_script_is_run_and_a_too_large_one_refused(tmp_path: Path) -> None:
    text = "#!/bin/bash\n" + "# padding\n" * 50_000 + "echo end\n"
    assert run(make_request(entry=UserScript(text)), tmp_path)[1] == "end\n"
    request = make_request(entry=UserScript("#!/bin/bash\n" + "x" * (512 * 1024 - 12)))
    with pytest.raises(InvalidSpec, match="script: "):
        render_batch_script(request)


def test_user_script_is_for_its_owner_alone_and_replaces_an_old_one(tmp_path: Path) -> None:
    target = tmp_path / "elsewhere"
    target.write_text("untouched")
    (tmp_path / "user_script").symlink_to(target)
    assert run(make_request(entry=UserScript("#!/bin/bash\necho new\n")), tmp_path)[1] == "new\n"
    assert target.read_text() == "untouched"
    assert stat.S_IMODE((tmp_path / "user_script").stat().st_mode) == 0o700


def test_signal_reaches_the_user_script_itself(tmp_path: Path) -> None:
    text = "#!/bin/bash\ntrap 'echo saved; exit 42' USR1\ntouch ready\nwhile :; do sleep 0.02; done\n"
    process = start(make_request(entry=UserScript(text), signal_name="USR1", signal_lead_s=60), tmp_path)
    wait_for(tmp_path / "ready", process)
    process.send_signal(signal.SIGUSR1)
    out, _ = process.communicate(timeout=30)
    assert (process.returncode, out) == (42, b"saved\n")


def test_ignored_directives_and_converted_line_ends_are_told() -> None:
    lines = [f"#SBATCH --nodes={number}" for number in range(25)]
    text = "\r\n".join(["#!/bin/bash", *lines, "echo", "#SBATCH --too-late", ""])
    warnings = {
        item.code: item.parameters for item in render_batch_script(make_request(entry=UserScript(text))).warnings
    }
    assert warnings["crlf"] == {"lines": 28}
    assert warnings["user_directives_ignored"] == {"count": 25, "lines": tuple(lines[:20])}


def test_signal_that_comes_at_once_is_told() -> None:
    rendered = render_batch_script(make_request(time_limit_minutes=2, signal_name="USR1", signal_lead_s=60))
    assert [item.code for item in rendered.warnings] == ["signal_at_start"]
    assert render_batch_script(make_request(time_limit_minutes=3, signal_name="USR1", signal_lead_s=60)).warnings == ()


TORCHRUN = """#!/usr/bin/env python3
# Behaves as torchrun does where it matters here: default signal actions unless inherited as ignored,
# one worker process per device in a session of its own, the worst exit code handed on.
import subprocess, sys
options = [word for word in sys.argv[1:] if word.startswith("--")]
rest = sys.argv[1 + len(options):]
count = next(int(word.split("=")[1]) for word in options if word.startswith("--nproc_per_node="))
print("agent", *sys.argv[1:], flush=True)
workers = [subprocess.Popen([sys.executable, *rest, str(rank)], start_new_session=True) for rank in range(count)]
sys.exit(max(worker.wait() for worker in workers))
"""
WORKER = """
import pathlib, signal, sys, time
stopped = []
signal.signal(signal.SIGUSR1, lambda *_: stopped.append(True))
pathlib.Path(f"ready{sys.argv[-1]}").touch()
while not stopped:
    time.sleep(0.01)
pathlib.Path(f"saved{sys.argv[-1]}").touch()
sys.exit(7)
"""


def install(directory: Path, name: str, text: str) -> None:
    directory.mkdir(exist_ok=True)
    (directory / name).write_text(text)
    (directory / name).chmod(0o755)


def test_torchrun_on_one_node_gets_the_devices_and_gives_its_exit_code(tmp_path: Path) -> None:
    install(tmp_path / "bin", "torchrun", TORCHRUN)
    (tmp_path / "exit.py").write_text("import sys; sys.exit(5 if sys.argv[-1] == '1' else 0)")
    request = make_request(entry=Command(("exit.py", "it's"), "torchrun"), devices_per_node=2)
    code, out, _ = run(request, tmp_path, PATH=f"{tmp_path}/bin:{os.environ['PATH']}")
    assert (code, out) == (5, "agent --standalone --nnodes=1 --nproc_per_node=2 exit.py it's\n")


def test_signal_before_the_time_limit_reaches_the_workers_and_not_the_agent(tmp_path: Path) -> None:
    install(tmp_path / "bin", "torchrun", TORCHRUN)
    (tmp_path / "worker.py").write_text(WORKER)
    request = make_request(
        entry=Command(("worker.py",), "torchrun"), devices_per_node=2, signal_name="USR1", signal_lead_s=60
    )
    process = start(request, tmp_path, PATH=f"{tmp_path}/bin:{os.environ['PATH']}")
    wait_for(tmp_path / "ready0", process)
    wait_for(tmp_path / "ready1", process)
    process.send_signal(signal.SIGUSR1)
    process.communicate(timeout=30)
    assert process.returncode == 7
    assert sorted(path.name for path in tmp_path.glob("saved*")) == ["saved0", "saved1"]


def test_cancelling_reaches_the_agent(tmp_path: Path) -> None:
    install(
        tmp_path / "bin",
        "torchrun",
        "#!/bin/bash\ntrap 'touch stopped; exit 9' TERM\ntouch ready\nwhile :; do sleep 0.02; done\n",
    )
    request = make_request(entry=Command(("train.py",), "torchrun"), signal_name="USR1", signal_lead_s=60)
    process = start(request, tmp_path, PATH=f"{tmp_path}/bin:{os.environ['PATH']}")
    wait_for(tmp_path / "ready", process)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 9
    assert (tmp_path / "stopped").exists()


def test_torchrun_on_many_nodes_meets_at_the_first_one(tmp_path: Path) -> None:
    install(tmp_path / "bin", "scontrol", "#!/bin/bash\nprintf '%s\\n' node07 node08 # for \"$*\"\n")
    # srun starts the command once per node; here once, after telling its own options.
    install(
        tmp_path / "bin",
        "srun",
        '#!/bin/bash\nwhile [[ $1 == --* ]]; do echo "srun $1"; shift; done\nexec "$@"\n',
    )
    install(tmp_path / "bin", "torchrun", "#!/bin/bash\nprintf '%s\\n' \"$@\"\n")
    request = make_request(
        entry=Command(("-m", "trainer", "a b"), "torchrun"), nodes=2, devices_per_node=8, cpus_per_node=64
    )
    code, out, err = run(
        request,
        tmp_path,
        PATH=f"{tmp_path}/bin:{os.environ['PATH']}",
        SLURM_JOB_NODELIST="node[07-08]",
        SLURM_JOB_ID="123456",
        SLURM_EXPORT_ENV="NONE",
    )
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        "srun --nodes=2",
        "srun --ntasks=2",
        "srun --ntasks-per-node=1",
        "srun --cpus-per-task=64",
        "srun --kill-on-bad-exit=1",
        "--nnodes=2",
        "--nproc_per_node=8",
        "--rdzv_backend=c10d",
        "--rdzv_endpoint=node07:23456",
        "--rdzv_id=123456",
        "-m",
        "trainer",
        "a b",
    ]


def test_many_nodes_without_slurm_is_told_plainly(tmp_path: Path) -> None:
    code, _, err = run(make_request(entry=Command(("train.py",), "torchrun"), nodes=2), tmp_path)
    assert code != 0
    assert "a job on several nodes needs Slurm" in err
