"""Finished jobs correct later estimates: measured once, learnt in versions, and taken back by one choice."""

import json
import math
from collections.abc import Callable
from io import StringIO
from typing import Any

import numpy as np
import pytest
from django.core.management import CommandError, call_command
from django.db import IntegrityError, connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import translation

from jobs import tasks
from jobs.estimation import ENGINE_VERSION
from jobs.estimation.calibration import METHOD_VERSION, Calibration
from jobs.models import CalibrationVersion, Estimate, Job, Measurement
from jobs.services import calibration as service
from jobs.services import estimates, recalibration
from jobs.services.calibration import OtherEngine, UnknownVersion, active_calibration, describe_calibration
from jobs.services.quoting import QuoteRequest, quote_run
from jobs.services.recalibration import Recalibration
from jobs.states import JobState
from portal.celery import app
from tests.factories import make_user
from tests.jobs.conftest import Centre, native_id

WORKLOAD = {"model": {"preset": "llama-2-7b"}, "tokens": 10**9}
SLOWER = 1.25

Run = Callable[..., Job]


@pytest.fixture
def run(centre: Centre) -> Run:
    """Lets a job run to its end and report metrics as a real one does."""

    def run_job(
        ratio: float = SLOWER,
        *,
        memory_ratio: float | None = None,
        points: list[dict[str, Any]] | None = None,
        state: JobState | None = None,
        **fields: Any,
    ) -> Job:
        job = centre.submit(**{"workload": WORKLOAD, **fields})
        centre.tick()
        centre.tick()
        alone = _engine_alone(centre)
        if points is None:
            points = [{"step": 10 * number, "loss": 2.0, "step_time_s": alone.step_s * ratio} for number in range(1, 8)]
            points[0]["step_time_s"] *= 20  # compilation
            if memory_ratio is not None:
                points[3]["peak_memory_bytes"] = alone.memory_bytes * memory_ratio
        native = native_id(job)
        lines = "".join(json.dumps(point) + "\n" for point in points)
        centre.backend.write_output(native, lines.encode(), file="metrics")
        centre.backend.set_outcome(native, elapsed_s=600, state=state)
        centre.tick(600)
        centre.tick()
        job.refresh_from_db()
        assert job.settled_at is not None
        return job

    return run_job


def _engine_alone(centre: Centre) -> Any:
    workload, machine = estimates.parse_workload(WORKLOAD), estimates.machine_for(centre.partition)
    return estimates.estimate_uncalibrated(workload, machine, devices=8)


def recalibrate(centre: Centre, **options: Any) -> Recalibration:
    return recalibration.recalibrate(at=centre.now(), **options)


def quote(centre: Centre) -> Any:
    request = QuoteRequest(cluster="dummy", partition="a800", nodes=1, devices_per_node=8, workload=WORKLOAD)
    return quote_run(user=centre.user, request=request, at=centre.now()).estimate


def ratio_of(centre: Centre) -> float:
    """Step time that is quoted over that of the engine alone."""
    return float(quote(centre).step_s / _engine_alone(centre).step_s)


# The loop


def test_a_slow_cluster_is_learnt_from_its_finished_jobs(centre: Centre, run: Run) -> None:
    rng = np.random.default_rng(1)
    for _ in range(10):
        run(SLOWER * math.exp(0.05 * rng.standard_normal()))
    assert ratio_of(centre) == 1.0
    found = recalibrate(centre)
    assert (found.measured, found.used, found.is_activated) == (10, 10, True)
    assert ratio_of(centre) == pytest.approx(SLOWER, rel=0.05)


def test_without_finished_jobs_nothing_is_learnt(centre: Centre) -> None:
    found = recalibrate(centre)
    assert (found.version, found.measured) == (None, 0)
    assert active_calibration() is None
    assert ratio_of(centre) == 1.0


def test_the_second_round_learns_from_estimates_that_the_first_corrected(centre: Centre, run: Run) -> None:
    """What was measured is compared with the engine alone, so that corrections don't pile up or cancel out."""
    for _ in range(5):
        run()
    recalibrate(centre)
    for _ in range(5):
        run()
    assert Estimate.objects.filter(calibration__isnull=False).count() == 5
    recalibrate(centre)
    assert ratio_of(centre) == pytest.approx(SLOWER, rel=0.02)


def test_an_estimate_of_another_engine_is_made_anew(centre: Centre, run: Run) -> None:
    run()
    Estimate.objects.update(engine_version="1999.1", step_s=1.0)
    recalibrate(centre)
    assert 1.1 < ratio_of(centre) < SLOWER


def test_an_admitted_job_stores_which_version_corrected_its_estimate(centre: Centre, run: Run) -> None:
    run()
    version = recalibrate(centre).version
    assert version is not None
    job = centre.submit(workload=WORKLOAD)
    centre.tick()
    stored = job.estimates.get()
    assert stored.calibration == version
    assert stored.result["calibration"]["version"] == version.pk
    assert stored.step_s == pytest.approx(sum(stored.result["step_parts_s"].values()))
    assert describe_calibration(stored.result["calibration"]).startswith(
        "Rests on 1 finished job here of this size, accelerator and framework. Step time +"
    )


def test_a_job_of_the_engine_alone_stores_no_version(centre: Centre, run: Run) -> None:
    assert run().estimates.get().calibration is None


def test_memory_that_jobs_used_makes_the_plan_leave_room(centre: Centre, run: Run) -> None:
    before = _engine_alone(centre)
    more = 0.98 * before.memory_capacity_bytes / before.memory_bytes
    for _ in range(6):
        run(1.0, memory_ratio=more)
    recalibrate(centre)
    after = quote(centre)
    factor = after.calibration["memory_factor"]
    assert factor == pytest.approx(more, rel=0.03)
    assert factor > 1.05
    workload, machine = estimates.parse_workload(WORKLOAD), estimates.machine_for(centre.partition)
    alone = estimates.estimate_uncalibrated(workload, machine, devices=8, plan=after.plan.to_dict())
    assert after.memory_bytes == pytest.approx(alone.memory_bytes * factor)
    assert after.fits
    # The plan that was best would fill the card: another one is chosen.
    assert after.memory_bytes < 0.9 * after.memory_capacity_bytes
    assert after.plan != before.plan


# What is measured


def test_the_first_point_is_left_out_and_the_median_taken(centre: Centre, run: Run) -> None:
    times = [99.0, 2.0, 2.1, 1.9, 50.0, 2.0]
    run(points=[{"step": 5 * number, "step_time_s": seconds} for number, seconds in enumerate(times)])
    recalibrate(centre, dry_run=False)
    measured = Measurement.objects.get()
    assert (measured.step_s, measured.steps, measured.memory_bytes, measured.refusal) == (2.0, 20, None, "")


def test_throughput_alone_gives_the_step_time(centre: Centre, run: Run) -> None:
    tokens_per_step = estimates.parse_workload(WORKLOAD).tokens_per_step
    run(points=[{"step": 5 * number, "tokens_per_s": tokens_per_step / 4} for number in range(6)])
    recalibrate(centre)
    assert Measurement.objects.get().step_s == pytest.approx(4.0)


@pytest.mark.parametrize(
    ("points", "refusal"),
    [
        ([], "no_metrics"),
        ([{"step": number, "loss": 1.0} for number in range(100)], "no_metrics"),
        ([{"step": number, "step_time_s": 3.0} for number in range(5)], "too_few_steps"),
        ([{"step": 100 * number, "step_time_s": 3.0} for number in range(3)], "too_few_steps"),
        ([{"step": 5 * number, "step_time_s": -3.0} for number in range(20)], "no_metrics"),
        ([{"step": 5 * number, "step_time_s": 3.0, "tokens_per_s": 1e9} for number in range(20)], "other_workload"),
    ],
)
def test_a_job_that_says_too_little_teaches_nothing_and_why_is_kept(
    centre: Centre, run: Run, points: list[dict[str, Any]], refusal: str
) -> None:
    run(points=points)
    found = recalibrate(centre)
    assert (found.version, found.used, found.refused) == (None, 0, {refusal: 1})
    assert Measurement.objects.get().refusal == refusal


@pytest.mark.parametrize("state", [JobState.FAILED, JobState.OUT_OF_MEMORY, JobState.NODE_FAIL])
def test_a_failed_job_teaches_nothing(centre: Centre, run: Run, state: JobState) -> None:
    run(state=state)
    assert recalibrate(centre).measured == 0


def test_a_job_that_reached_its_time_limit_trained_all_the_same(centre: Centre, run: Run) -> None:
    run(state=JobState.TIMEOUT)
    assert recalibrate(centre).used == 1


def test_cards_that_are_only_counted_teach_nothing(centre: Centre, run: Run) -> None:
    run()
    centre.partition.is_simulated = True
    centre.partition.save()
    assert recalibrate(centre).measured == 0


def test_a_partition_that_turns_out_to_be_simulated_is_forgotten(centre: Centre, run: Run) -> None:
    run()
    recalibrate(centre)
    centre.partition.is_simulated = True
    centre.partition.save()
    assert recalibrate(centre).used == 0
    assert ratio_of(centre) == 1.0


def test_an_absurd_job_alone_makes_no_version(centre: Centre, run: Run) -> None:
    run(100.0)
    found = recalibrate(centre)
    assert (found.used, len(found.outliers), found.version) == (0, 1, None)


def test_a_job_without_a_workload_teaches_nothing(centre: Centre, run: Run) -> None:
    run(workload=None)
    assert recalibrate(centre).measured == 0


def test_each_job_is_read_once(centre: Centre, run: Run) -> None:
    run()
    recalibrate(centre)
    before = centre.backend.call_counts["read_log"]
    assert recalibrate(centre).measured == 0
    assert centre.backend.call_counts["read_log"] == before


def test_a_cluster_that_does_not_answer_is_measured_later(centre: Centre, run: Run) -> None:
    run()
    centre.backend.set_available(False)
    assert recalibrate(centre).measured == 0
    centre.backend.set_available(True)
    assert recalibrate(centre).measured == 1


def test_a_reading_above_what_the_card_has_is_not_its_memory(centre: Centre, run: Run) -> None:
    run(1.0, memory_ratio=100.0)
    recalibrate(centre)
    assert quote(centre).calibration["memory_factor"] == 1.0


def test_an_absurd_job_is_named_as_outlier(centre: Centre, run: Run) -> None:
    for _ in range(3):
        run()
    absurd = run(100 * SLOWER)
    found = recalibrate(centre)
    assert found.outliers == (str(absurd.pk),)
    assert found.used == 3
    assert found.version is not None
    assert found.version.evidence["outliers"] == [str(absurd.pk)]
    assert ratio_of(centre) == pytest.approx(SLOWER, rel=0.03)


def test_a_job_that_the_engine_can_not_estimate_any_more_is_passed_over(centre: Centre, run: Run) -> None:
    run()
    broken = run()
    Job.objects.filter(pk=broken.pk).update(workload={"model": {"preset": "gone"}, "tokens": 1})
    found = recalibrate(centre)
    assert (found.used, found.refused) == (1, {"not_estimable": 1})


# Versions


def test_the_same_jobs_make_no_second_version(centre: Centre, run: Run) -> None:
    run()
    first = recalibrate(centre).version
    assert first is not None
    assert recalibrate(centre).version is None
    assert CalibrationVersion.objects.count() == 1


def test_a_new_version_follows_the_newest_in_use(centre: Centre, run: Run) -> None:
    run()
    first = recalibrate(centre).version
    run()
    second = recalibrate(centre)
    assert second.is_activated
    assert list(CalibrationVersion.objects.filter(is_active=True)) == [second.version]
    assert first is not None
    first.refresh_from_db()
    assert not first.is_active


def test_a_choice_of_none_stays(centre: Centre, run: Run) -> None:
    run()
    first = recalibrate(centre).version
    assert first is not None
    assert service.deactivate() == first.pk
    assert ratio_of(centre) == 1.0
    run()
    second = recalibrate(centre)
    assert second.version is not None
    assert not second.is_activated
    assert ratio_of(centre) == 1.0
    assert service.deactivate() is None


def test_a_choice_of_an_earlier_version_stays_and_gives_its_figures_back(centre: Centre, run: Run) -> None:
    run()
    first = recalibrate(centre).version
    before = ratio_of(centre)
    for _ in range(5):
        run()
    recalibrate(centre)
    assert ratio_of(centre) > before
    assert first is not None
    service.activate_version(first.pk, at=centre.now(), by=centre.user)
    assert ratio_of(centre) == before
    run()
    assert not recalibrate(centre).is_activated
    assert ratio_of(centre) == before
    first.refresh_from_db()
    assert (first.is_active, first.activated_by) == (True, centre.user)


def test_a_version_of_another_engine_corrects_nothing_and_can_not_be_chosen(centre: Centre, run: Run) -> None:
    run()
    version = recalibrate(centre).version
    assert version is not None
    CalibrationVersion.objects.update(engine_version="1999.1")
    assert active_calibration() is None
    assert ratio_of(centre) == 1.0
    with pytest.raises(OtherEngine, match=r"1999\.1"):
        service.activate_version(version.pk, at=centre.now())
    renewed = recalibrate(centre)
    assert renewed.is_activated
    assert ratio_of(centre) > 1.1


def test_an_unknown_version_is_refused_with_those_there_are(centre: Centre, run: Run) -> None:
    run()
    version = recalibrate(centre).version
    assert version is not None
    with pytest.raises(UnknownVersion, match=str(version.pk)):
        service.activate_version(10**6, at=centre.now())


def test_the_database_keeps_two_versions_from_being_in_use(centre: Centre, run: Run) -> None:
    run()
    version = recalibrate(centre).version
    assert version is not None
    another = {"created_at": centre.now(), "engine_version": "x", "method_version": 1, "jobs_used": 0, "factors": {}}
    with pytest.raises(IntegrityError, match="one_active"):
        CalibrationVersion.objects.create(is_active=True, **another)


def test_an_estimate_costs_one_query_for_the_version_in_use(centre: Centre, run: Run) -> None:
    run()
    recalibrate(centre)
    quote(centre)
    workload, machine = estimates.parse_workload(WORKLOAD), estimates.machine_for(centre.partition)
    with CaptureQueriesContext(connection) as captured:
        estimates.estimate_workload(workload, machine, devices=8)
    assert len(captured) == 1
    assert "factors" not in captured[0]["sql"]


def test_a_dry_run_writes_nothing(centre: Centre, run: Run) -> None:
    run()
    found = recalibrate(centre, dry_run=True)
    assert (found.measured, found.used, found.version) == (1, 1, None)
    assert found.calibration.jobs == 1
    assert not Measurement.objects.exists()
    assert not CalibrationVersion.objects.exists()


# Doors


def command(*arguments: str) -> str:
    out = StringIO()
    call_command("calibrate", *arguments, stdout=out)
    return out.getvalue()


def test_the_command_learns_explains_and_switches(centre: Centre, run: Run) -> None:
    for _ in range(3):
        run(memory_ratio=1.1)
    shown = command("--dry-run")
    assert "nothing was written" in shown
    assert "a800-80g megatron pretraining" in shown
    assert "step time x 1.2" in shown
    assert "shape            3 jobs" in shown
    assert "in use" in command("--note", "after the new driver")
    version = CalibrationVersion.objects.get()
    assert version.note == "after the new driver"
    assert command("--deactivate") == f"version {version.pk} is out of use\n"
    assert command("--deactivate") == "no calibration was in use\n"
    assert f"version {version.pk} is in use" in command("--activate", str(version.pk))
    assert "nothing new" in command()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--activate", "77"], "no calibration version 77"),
        (["--activate", "x"], "invalid int value"),
        (["--activate", "1", "--deactivate"], "not allowed with"),
        (["--note", "x" * 201], "at most 200"),
    ],
)
def test_the_command_refuses_nonsense_in_words(db: None, arguments: list[str], words: str) -> None:
    with pytest.raises(CommandError, match=words):
        command(*arguments)


def test_the_beat_learns_once_a_day(centre: Centre, run: Run) -> None:
    run()
    entry = app.conf.beat_schedule["calibrate"]
    assert (entry["task"], entry["schedule"]) == (tasks.calibrate.name, 24 * 3600)
    tasks.calibrate()
    assert CalibrationVersion.objects.get().is_active


@pytest.fixture
def admin(db: None) -> Client:
    client = Client()
    client.force_login(make_user("boss", is_staff=True, is_superuser=True))
    return client


def act(admin: Client, action: str, *versions: int) -> str:
    data = {"action": action, "_selected_action": [str(version) for version in versions]}
    answer = admin.post("/admin/jobs/calibrationversion/", data, follow=True)
    assert answer.status_code == 200
    return answer.content.decode()


def test_administrators_choose_a_version_and_none(centre: Centre, run: Run, admin: Client) -> None:
    run()
    first = recalibrate(centre).version
    run()
    second = recalibrate(centre).version
    assert first is not None
    assert second is not None
    assert f"Calibration version {first.pk} is in use." in act(admin, "use_selected", first.pk)
    first.refresh_from_db()
    assert first.is_active
    assert first.activated_by is not None
    assert first.activated_by.username == "boss"
    assert "only one can be in use" in act(admin, "use_selected", first.pk, second.pk)
    assert f"Calibration version {first.pk} is out of use." in act(admin, "use_none", second.pk)
    assert not CalibrationVersion.objects.filter(is_active=True).exists()
    CalibrationVersion.objects.filter(pk=second.pk).update(engine_version="1999.1")
    assert "was learnt for engine 1999.1" in act(admin, "use_selected", second.pk)


def test_versions_and_measurements_can_be_looked_at_and_not_changed(centre: Centre, run: Run, admin: Client) -> None:
    run()
    version = recalibrate(centre).version
    assert version is not None
    for url in ("calibrationversion/", f"calibrationversion/{version.pk}/change/", "measurement/"):
        assert admin.get(f"/admin/jobs/{url}").status_code == 200
    assert admin.post(f"/admin/jobs/calibrationversion/{version.pk}/change/", {"note": "x"}).status_code == 403
    assert admin.post(f"/admin/jobs/calibrationversion/{version.pk}/delete/", {"post": "yes"}).status_code == 403


# Words


@pytest.mark.parametrize("level", ["shape", "stack", "accelerator", "family", "centre"])
@pytest.mark.parametrize("count", [1, 12])
def test_what_an_estimate_rests_on_is_said_with_the_number_of_jobs(level: str, count: int) -> None:
    figures = {"level": level, "jobs_at_level": {level: count}, "step_time_factor": 1.246, "memory_factor": 0.97}
    text = describe_calibration(figures)
    assert f"{count} finished job{'s' if count > 1 else ''} here" in text
    assert text.endswith("Step time +25 %, memory -3 %.")


def test_without_jobs_it_says_so() -> None:
    factors = Calibration().lookup("a800-80g", "a800", "megatron", 10**9, 8, "pretraining")
    with translation.override("en"):
        assert describe_calibration(factors.to_dict()) == "No finished job of this centre has corrected it."


def test_a_version_is_of_this_engine_and_method(centre: Centre, run: Run) -> None:
    run()
    version = recalibrate(centre).version
    assert version is not None
    assert (version.engine_version, version.method_version) == (ENGINE_VERSION, METHOD_VERSION)
    assert version.jobs_used == 1
    assert version.evidence["stacks"][0]["accelerator"] == "a800-80g"
    assert Calibration.from_dict(version.factors).jobs == 1
