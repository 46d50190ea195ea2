"""The form of a new job: what it takes, what it refuses, and that nothing typed is lost."""

from typing import Any

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client
from django.urls import reverse

from accounts.models import LedgerEntry, Partition
from jobs.models import Job
from jobs.states import JobState
from tests.factories import make_allocation, make_partition, make_policy, make_project, make_user
from tests.jobs.conftest import Centre
from tests.pages.conftest import CONFIG_JSON, SignIn, address, filled_form, filled_model_form

URL = "/jobs/new"


def errors_of(answer: Any) -> dict[str, list[str]]:
    assert answer.status_code == 200
    return dict(answer.context["form"].errors)


def test_a_script_becomes_a_submitted_job(centre: Centre, owner: Client) -> None:
    answer = owner.post(URL, filled_form(centre))
    job = Job.objects.get()
    assert answer.status_code == 302
    assert answer["Location"] == reverse("job-detail", args=[job.pk])
    assert (job.name, job.state, job.time_limit_minutes) == ("hello", JobState.SUBMITTED, 120)
    assert job.script == "#!/bin/bash\necho hello\n", "line ends of the browser are undone"
    assert "submitted" in owner.get(answer["Location"]).content.decode()


def test_a_known_model_gets_its_time_limit_from_the_estimate(centre: Centre, owner: Client) -> None:
    owner.post(URL, filled_model_form(centre, time_limit="", name="", nodes="8"))
    job = Job.objects.get()
    assert job.name == "llama-2-7b"
    assert job.workload["tokens"] == 2 * 10**9
    assert 60 < job.time_limit_minutes < 7 * 24 * 60


def test_a_config_json_is_taken_as_text_or_as_file(centre: Centre, owner: Client) -> None:
    form = {"model_source": "config", "preset": None, "time_limit": "2 h"}
    owner.post(URL, filled_model_form(centre, **form, config_json=CONFIG_JSON, form_key="one"))
    file = SimpleUploadedFile("config.json", b"\xef\xbb\xbf" + CONFIG_JSON.encode())
    owner.post(URL, filled_model_form(centre, **form, config_file=file, form_key="two"))
    first, second = Job.objects.all()
    assert first.workload == second.workload
    assert first.workload["model"]["architecture"]["hidden_size"] == 4096


def test_a_command_with_environment_is_taken(centre: Centre, owner: Client) -> None:
    fields = {"entry_kind": "command", "script": "", "command": "train.py --name 'two words'", "launcher": "torchrun"}
    environment = "# a remark\r\nSEED=7\r\n\r\nexport WHERE=a=b\r\n"
    owner.post(URL, filled_form(centre, **fields, environment=environment, checkpoint_lead_s="120"))
    job = Job.objects.get()
    assert job.command == ["train.py", "--name", "two words"]
    assert job.launcher == "torchrun"
    assert job.environment == {"SEED": "7", "WHERE": "a=b"}
    assert job.checkpoint_lead_s == 120


def test_an_own_plan_is_kept(centre: Centre, owner: Client) -> None:
    plan = {"plan_mode": "manual", "tensor_parallel": "4", "data_parallel": "", "zero_stage": "1"}
    owner.post(URL, filled_model_form(centre, **plan, micro_batch_size="1", recomputation="full", nodes="2"))
    job = Job.objects.get()
    assert (job.plan["tensor_parallel"], job.plan["data_parallel"], job.plan["recomputation"]) == (4, 4, "full")


def test_an_own_plan_may_spread_experts_and_leave_states_in_host_memory(centre: Centre, owner: Client) -> None:
    plan = {"plan_mode": "manual", "expert_parallel": "8", "zero_stage": "2", "offload": "optimizer"}
    owner.post(URL, filled_model_form(centre, **plan, preset="mixtral-8x7b", nodes="4", recomputation="full"))
    job = Job.objects.get()
    assert job.plan is not None
    wanted = {"expert_parallel": 8, "data_parallel": 32, "offload": "optimizer", "pipeline_schedule": "1f1b"}
    assert wanted.items() <= job.plan.items()


def test_framework_and_precision_of_gradients_are_taken_and_copied(centre: Centre, owner: Client) -> None:
    chosen = {
        "framework": "fsdp",
        "gradient_precision": "16-bit",
        "optimizer": "adafactor",
        "task": "preference_tuning",
    }
    owner.post(URL, filled_model_form(centre, **chosen))
    job = Job.objects.get()
    assert job.workload is not None
    wanted = {"framework": "fsdp", "fp32_gradients": False, "optimizer": "adafactor", "task": "preference_tuning"}
    assert wanted.items() <= job.workload.items()
    form = owner.get(f"{URL}?clone={job.pk}").context["form"]
    assert {name: form[name].value() for name in chosen} == chosen


def test_bf16_alone_is_taken_and_needs_that_precision(centre: Centre, owner: Client) -> None:
    pure = {"gradient_precision": "pure-bf16", "task": "full_finetuning"}
    refused = errors_of(owner.post(URL, filled_model_form(centre, **pure, precision="fp16")))
    assert list(refused) == ["gradient_precision"]
    owner.post(URL, filled_model_form(centre, **pure))
    job = Job.objects.get()
    assert job.workload is not None
    assert job.workload["pure_bf16"] is True
    assert owner.get(f"{URL}?clone={job.pk}").context["form"]["gradient_precision"].value() == "pure-bf16"


def test_the_precision_is_one_that_the_accelerators_have(centre: Centre, owner: Client) -> None:
    Partition.objects.update(accelerator="ascend910a-32g")
    answer = owner.get(URL)
    assert 'data-precisions="fp16"' in answer.content.decode()
    refused = errors_of(owner.post(URL, filled_model_form(centre, precision="bf16")))
    words = "“bf16” is not allowed here; allowed: a precision of ascend910a-32g: fp16."
    assert refused == {"precision": [words]}
    owner.post(URL, filled_model_form(centre, precision=""))
    workload = Job.objects.get().workload
    assert workload is not None
    assert workload["precision"] == "fp16"


BAD_FIELDS = [
    ({"model_source": "preset", "preset": "gpt-17", "tokens": "2B"}, "preset"),
    ({"model_source": "preset", "preset": "", "tokens": "2B"}, "preset"),
    ({"model_source": "config", "config_json": "{broken", "tokens": "2B"}, "config_json"),
    ({"model_source": "config", "config_json": "[1, 2]", "tokens": "2B"}, "config_json"),
    ({"model_source": "config", "config_json": '{"model_type": "llama"}', "tokens": "2B"}, "config_json"),
    ({"model_source": "config", "config_json": "[" * 200_000, "tokens": "2B"}, "config_json"),
    ({"model_source": "config", "config_json": "{" + " " * 300_000 + "}", "tokens": "2B"}, "config_json"),
    ({"model_source": "config", "config_json": "", "tokens": "2B"}, "config_json"),
    ({"model_source": "architecture", "architecture": "{}", "tokens": "2B"}, None),
    ({"model_source": "preset", "preset": "llama-2-7b", "tokens": "-2B"}, "tokens"),
    ({"model_source": "preset", "preset": "llama-2-7b", "tokens": ""}, "tokens"),
    ({"model_source": "preset", "preset": "llama-2-7b", "tokens": "1e17"}, "tokens"),
    ({"model_source": "preset", "preset": "llama-2-7b", "tokens": "2B", "sequence_length": "0"}, "sequence_length"),
    ({"model_source": "preset", "preset": "llama-2-7b", "tokens": "2B", "precision": "fp4"}, "precision"),
    ({"model_source": "preset", "preset": "llama-2-7b", "tokens": "2B", "task": "guessing"}, "task"),
    ({"time_limit": "8 d"}, "time_limit"),
    ({"time_limit": "soon"}, "time_limit"),
    ({"partition": "dummy/nowhere"}, "partition"),
    ({"partition": ""}, "partition"),
    ({"nodes": "9"}, "nodes"),
    ({"nodes": "0"}, "nodes"),
    ({"nodes": "9" * 30}, "nodes"),
    ({"devices_per_node": "64"}, "devices_per_node"),
    ({"devices_per_node": "eight"}, "devices_per_node"),
    ({"project": "elsewhere"}, "project"),
    ({"script": ""}, "script"),
    ({"script": "echo no interpreter"}, "script"),
    ({"script": "#!/bin/sh\n" + "x" * 1_000_000}, "script"),
    ({"script": "#!/bin/sh\necho \x00"}, "script"),
    ({"name": "no spaces allowed"}, "name"),
    ({"name": "<script>alert(1)</script>"}, "name"),
    ({"entry_kind": "command", "command": ""}, "command"),
    ({"entry_kind": "command", "command": "echo 'open"}, "command"),
    ({"entry_kind": "magic"}, "entry_kind"),
    ({"environment": "NOVALUE"}, "environment"),
    ({"environment": "A=1\nA=2"}, "environment"),
    ({"environment": "LD_PRELOAD=/tmp/x.so"}, "environment"),
    ({"checkpoint_lead_s": "86000", "time_limit": "10 min"}, "checkpoint_lead_s"),
    ({"cloned_from": "not-a-uuid"}, "cloned_from"),
]


@pytest.mark.parametrize(("changes", "field"), BAD_FIELDS)
def test_bad_input_is_named_at_its_field_and_nothing_is_stored(
    centre: Centre, owner: Client, changes: dict[str, str], field: str | None
) -> None:
    make_project("elsewhere")
    errors = errors_of(owner.post(URL, filled_form(centre, **changes)))
    assert (field or "__all__") in errors
    assert not Job.objects.exists()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("script_file", b"\xff\xfe#\x00!\x00"),
        ("script_file", "#!/bin/sh\necho \u4e2d\u6587\n".encode("gbk")),
        ("script_file", b"#!/bin/sh\n\x00"),
        ("script_file", b"#!/bin/sh\n" + b"x" * 1_000_000),
        ("config_file", b"\x89PNG\r\n\x1a\n\xff"),
        ("config_file", b"{" * 500_000),
    ],
)
def test_a_file_that_is_no_text_or_too_large_is_refused(
    centre: Centre, owner: Client, name: str, content: bytes
) -> None:
    data = filled_form(centre, **{name: SimpleUploadedFile("file", content)})
    assert name in errors_of(owner.post(URL, data))


def test_a_script_file_is_taken_instead_of_the_text(centre: Centre, owner: Client) -> None:
    owner.post(URL, filled_form(centre, script="", script_file=SimpleUploadedFile("run.sh", b"#!/bin/sh\r\ntrue\r\n")))
    assert Job.objects.get().script == "#!/bin/sh\ntrue\n"


def test_what_was_typed_comes_back_with_the_error_in_focus(centre: Centre, owner: Client) -> None:
    answer = owner.post(URL, filled_model_form(centre, tokens="lots", name="my-run", script="#!/bin/sh\necho kept\n"))
    page = answer.content.decode()
    assert "echo kept" in page
    assert 'value="my-run"' in page
    assert 'value="lots"' in page
    assert page.count("autofocus") == 1
    assert answer.context["form"].fields["tokens"].widget.attrs["autofocus"] is True
    assert answer.context["form"]["form_key"].value() == "key-of-this-form", "a corrected form is still the same one"


def test_without_an_allocation_the_project_is_refused(centre: Centre, owner: Client) -> None:
    other = make_partition("ascend")
    errors = errors_of(owner.post(URL, filled_form(centre, partition=address(other))))
    assert "no current allocation" in errors["project"][0]


def test_a_spent_allocation_says_what_is_left(centre: Centre, owner: Client) -> None:
    errors = errors_of(owner.post(URL, filled_form(centre, nodes="8", time_limit="100 h")))
    assert "6,400.00" in errors["project"][0]
    assert "1,000.00" in errors["project"][0]
    assert LedgerEntry.objects.count() == 1, "nothing is held by asking"


def test_a_limit_of_policy_is_named(centre: Centre, owner: Client) -> None:
    make_policy(max_accelerators_per_job=4)
    assert "At most 4" in errors_of(owner.post(URL, filled_form(centre)))["devices_per_node"][0]


def test_a_run_that_does_not_fit_needs_a_tick_to_be_submitted(centre: Centre, owner: Client) -> None:
    data = filled_model_form(centre, preset="llama-2-70b", nodes="1", time_limit="2 h")
    assert "override_estimate" in errors_of(owner.post(URL, data))
    assert owner.post(URL, {**data, "override_estimate": "on"}).status_code == 302
    assert Job.objects.get().is_estimate_overridden


def test_submitting_the_same_form_twice_makes_one_job(centre: Centre, owner: Client) -> None:
    first = owner.post(URL, filled_form(centre))
    second = owner.post(URL, filled_form(centre))
    assert first["Location"] == second["Location"]
    assert Job.objects.count() == 1


def test_a_changed_form_submitted_again_asks_once_more(centre: Centre, owner: Client) -> None:
    owner.post(URL, filled_form(centre))
    answer = owner.post(URL, filled_form(centre, nodes="2"))
    assert "made a job already" in errors_of(answer)["__all__"][0]
    key = answer.context["form"]["form_key"].value()
    assert key != "key-of-this-form"
    assert owner.post(URL, filled_form(centre, nodes="2", form_key=key)).status_code == 302
    assert Job.objects.count() == 2


def test_each_form_has_a_key_of_its_own(owner: Client) -> None:
    keys = {owner.get(URL).context["form"]["form_key"].value() for _ in range(3)}
    assert len(keys) == 3


def test_a_copy_starts_with_all_of_the_original(centre: Centre, owner: Client, sign_in: SignIn) -> None:
    job = centre.submit(
        name="original",
        workload={"model": {"preset": "llama-2-7b"}, "tokens": 10**9, "lora_rank": 8, "task": "lora"},
        environment={"SEED": "1"},
        time_limit_minutes=90,
    )
    form = owner.get(f"{URL}?clone={job.pk}").context["form"]
    shown = {name: form[name].value() for name in form.fields}
    assert (shown["name"], shown["preset"], shown["tokens"]) == ("original", "llama-2-7b", 10**9)
    assert (shown["time_limit"], shown["environment"], shown["lora_rank"]) == ("90 min", "SEED=1", 8)
    answer = owner.post(URL, {name: value for name, value in shown.items() if value is not None and value is not False})
    copy = Job.objects.get(cloned_from=job)
    assert answer["Location"] == copy.get_absolute_url()
    assert (copy.workload, copy.script, copy.environment) == (job.workload, job.script, job.environment)


def test_a_copy_of_an_own_model_keeps_its_architecture(centre: Centre, owner: Client) -> None:
    form = {"model_source": "config", "preset": None, "config_json": CONFIG_JSON}
    owner.post(URL, filled_model_form(centre, **form))
    job = Job.objects.get()
    shown = owner.get(f"{URL}?clone={job.pk}").context["form"]
    data = {name: shown[name].value() for name in shown.fields}
    assert data["model_source"] == "architecture"
    owner.post(URL, {name: value for name, value in data.items() if value is not None and value is not False})
    assert Job.objects.exclude(pk=job.pk).get().workload == job.workload


def test_only_what_one_sees_can_be_copied(centre: Centre, sign_in: SignIn, teammate: Any) -> None:
    job = centre.submit()
    client = sign_in(teammate)
    assert client.get(f"{URL}?clone={job.pk}").status_code == 404
    assert client.get(f"{URL}?clone=nonsense").status_code == 404


def test_the_example_fills_the_form(owner: Client) -> None:
    form = owner.get(f"{URL}?example=1").context["form"]
    assert form["preset"].value() == "char-transformer-demo"
    assert "train.py" in form["script"].value()


def test_without_a_project_the_page_says_what_to_do(centre: Centre, sign_in: SignIn) -> None:
    page = sign_in(make_user()).get(URL).content.decode()
    assert "You are in no project yet" in page
    assert "<textarea" not in page


class TestLiveEstimate:
    url = "/jobs/new/estimate"

    def panel(self, client: Client, data: dict[str, Any]) -> str:
        answer = client.post(self.url, data, headers={"HX-Request": "true"})
        assert answer.status_code == 200
        return answer.content.decode()

    def test_it_says_that_and_how_a_run_fits(self, centre: Centre, owner: Client) -> None:
        html = self.panel(owner, filled_model_form(centre, script=None, time_limit="", nodes="8"))
        assert "Fits on 64 cards" in html
        assert "accelerator-hours" in html
        assert "MFU" in html
        assert "Optimizer states" in html
        assert "override_estimate" not in html
        assert "<html" not in html
        assert not Job.objects.exists()

    def test_it_says_why_a_run_does_not_fit_and_what_would(self, centre: Centre, owner: Client) -> None:
        html = self.panel(owner, filled_model_form(centre, preset="llama-2-70b", time_limit="2 h"))
        assert "Doesn&#x27;t fit" in html or "Doesn't fit" in html
        assert 'name="override_estimate"' in html
        assert 'data-set-nodes="' in html

    def test_it_follows_the_form(self, centre: Centre, owner: Client) -> None:
        few = self.panel(owner, filled_model_form(centre, nodes="1"))
        many = self.panel(owner, filled_model_form(centre, nodes="4"))
        assert "Fits on 8 cards" in few
        assert "Fits on 32 cards" in many

    def test_an_unfinished_form_says_what_is_missing(self, centre: Centre, owner: Client) -> None:
        html = self.panel(owner, filled_model_form(centre, tokens=""))
        assert "Not enough to go on yet" in html
        assert "how many tokens" in html

    def test_too_little_quota_is_said_beside_the_estimate(self, centre: Centre, owner: Client) -> None:
        html = self.panel(owner, filled_model_form(centre, time_limit="6 d", nodes="8"))
        assert "Fits on 64 cards" in html
        assert "1,000.00" in html

    def test_without_a_model_it_shows_the_reservation(self, centre: Centre, owner: Client) -> None:
        html = self.panel(owner, filled_form(centre, script=None))
        assert "Reserves 16.00 accelerator-hours" in html
        assert "1.6%" in html

    @pytest.mark.parametrize(("changes", "field"), BAD_FIELDS)
    def test_no_input_breaks_it(
        self, centre: Centre, owner: Client, changes: dict[str, str], field: str | None
    ) -> None:
        make_project("elsewhere")
        self.panel(owner, filled_form(centre, **changes))

    def test_an_empty_form_does_not_break_it(self, owner: Client) -> None:
        assert "Not enough" in self.panel(owner, {})

    def test_a_foreign_project_shows_no_balance(self, centre: Centre, owner: Client) -> None:
        foreign = make_project("secret")
        make_allocation(foreign, centre.partition.resource_class, hours=77_777)
        assert "77,777" not in self.panel(owner, filled_form(centre, project="secret"))


class TestScriptPreview:
    url = "/jobs/new/script"

    def test_it_shows_the_whole_script_escaped(self, centre: Centre, owner: Client) -> None:
        data = filled_form(centre, script="#!/bin/sh\necho '<b>' && true\n")
        html = owner.post(self.url, data).content.decode()
        assert "#SBATCH --job-name=hello" in html
        assert "&lt;b&gt;" in html
        assert "<b>" not in html

    def test_it_says_what_keeps_it_from_being_shown(self, centre: Centre, owner: Client) -> None:
        html = owner.post(self.url, filled_form(centre, name="no good", nodes="99")).content.decode()
        assert "allowed: 1 to 8" in html
        assert "#SBATCH" not in html

    def test_directives_of_the_users_are_said_to_have_no_effect(self, centre: Centre, owner: Client) -> None:
        data = filled_form(centre, script="#!/bin/sh\n#SBATCH --nodes=99\n")
        assert "#SBATCH lines" in owner.post(self.url, data).content.decode()
