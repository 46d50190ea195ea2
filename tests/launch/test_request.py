"""What a launch request refuses, and that the refusal names the field."""

from typing import Any

import pytest

from jobs.launch import Command, Plan, UserScript
from jobs.spec import InvalidSpec

from .launch_requests import make_request


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("name", {"name": "two words"}),
        ("partition", {"partition": "cpu\n#SBATCH --nodes=9"}),
        ("nodes", {"nodes": 0}),
        ("nodes", {"nodes": True}),
        ("devices_per_node", {"devices_per_node": -1}),
        ("time_limit_minutes", {"time_limit_minutes": 1.5}),
        ("cpus_per_node", {"cpus_per_node": 0}),
        ("cpus_per_node", {"cpus_per_node": "4"}),
        ("memory_bytes_per_node", {"memory_bytes_per_node": 0}),
        ("memory_bytes_per_node", {"memory_bytes_per_node": 1e9}),
        ("signal_name", {"signal_name": "KILL"}),
        ("signal_name", {"signal_name": ["USR1"]}),
        ("signal_lead_s", {"signal_name": "USR1", "signal_lead_s": 65_536}),
        ("qos", {"qos": None}),
        ("entry", {"entry": "#!/bin/bash\n"}),
        ("environment", {"environment": [("A", "1")]}),
        ("environment.LD_PRELOAD", {"environment": {"LD_PRELOAD": "/data/x.so"}}),
        ("environment.A", {"environment": {"A": "1\n2"}}),
        ("environment.A", {"environment": {"A": "\udc80"}}),
        ("plan", {"plan": {"tensor_parallel": 8}}),
        ("plan", {"plan": Plan(tensor_parallel=4)}),
    ],
)
def test_refusal_names_the_field(field: str, changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidSpec) as caught:
        make_request(**changes)
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("plan.tensor_parallel", {"tensor_parallel": 0}),
        ("plan.micro_batch_size", {"micro_batch_size": 2.0}),
        ("plan.zero_stage", {"zero_stage": 4}),
        ("plan.precision", {"precision": "$(id)"}),
        ("plan.recomputation", {"recomputation": None}),
    ],
)
def test_plan_refuses_what_is_no_plan(field: str, values: dict[str, Any]) -> None:
    with pytest.raises(InvalidSpec) as caught:
        Plan(**values)
    assert caught.value.field == field


def test_plan_that_fills_the_devices_is_taken() -> None:
    request = make_request(nodes=2, plan=Plan(tensor_parallel=8, data_parallel=2, micro_batch_size=3))
    assert request.plan is not None
    assert request.plan.global_batch_size == 6


@pytest.mark.parametrize(
    ("field", "argv", "launcher"),
    [
        ("command.argv", (), "none"),
        ("command.argv", ["python3"], "none"),
        ("command.argv[0]", ("",), "none"),
        ("command.argv[0]", ("-c", "id"), "none"),
        ("command.argv[1]", ("python3", "a\nb"), "none"),
        ("command.argv[1]", ("python3", "a\x00b"), "none"),
        ("command.argv[1]", ("python3", "a\u2028b"), "none"),
        ("command.argv[1]", ("python3", "a\udc80b"), "none"),
        ("command.argv[1]", ("python3", 3), "none"),
        ("command.launcher", ("python3",), "mpirun"),
        ("command.argv[0]", ("--nnodes=9", "train.py"), "torchrun"),
        ("command.argv[0]", ("python3", "train.py"), "torchrun"),
        ("command.argv[0]", ("/opt/bin/torchrun", "train.py"), "torchrun"),
        ("command.argv[1]", ("-m",), "torchrun"),
        ("command.argv[1]", ("-m", "--nnodes=9"), "torchrun"),
    ],
)
def test_command_refuses_words_that_could_become_something_else(field: str, argv: Any, launcher: Any) -> None:
    with pytest.raises(InvalidSpec) as caught:
        Command(argv, launcher)
    assert caught.value.field == field


@pytest.mark.parametrize("text", ["", "\n", "echo no shebang\n", "#!/bin/bash\n\x00", "#!/bin/bash\n\udc80", None])
def test_user_script_that_cannot_be_run_is_refused(text: Any) -> None:
    with pytest.raises(InvalidSpec) as caught:
        UserScript(text)
    assert caught.value.field == "script"


def test_request_keeps_its_own_copy_of_the_environment() -> None:
    environment = {"A": "1"}
    request = make_request(environment=environment)
    environment["LD_PRELOAD"] = "/data/x.so"
    assert request.environment == {"A": "1"}


def test_job_spec_says_the_same_as_the_request() -> None:
    request = make_request(nodes=2, gres_type="a800", cpus_per_node=8, environment={"A": "1"})
    spec = request.build_job_spec("#!/bin/bash\ntrue\n", unix_user="alice")
    assert (spec.key, spec.devices, spec.gres_type, spec.cpus_per_node) == (request.key, 16, "a800", 8)
    assert (spec.unix_user, spec.script, spec.environment) == ("alice", "#!/bin/bash\ntrue\n", {"A": "1"})
