"""Log and metrics as pages poll them."""

import json
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from jobs.backends.base import SchedulerUnavailable
from jobs.models import Job
from tests.jobs.conftest import Centre, native_id


@pytest.fixture
def job(centre: Centre) -> Job:
    job = centre.submit()
    centre.tick()
    centre.tick()
    return job


def read(client: Client, job: Job, offset: int | str = 0, *, name: str = "job-log") -> dict[str, Any]:
    answer = client.get(reverse(name, args=[job.pk]), {"offset": offset})
    assert answer.status_code == 200
    assert answer["Content-Type"] == "application/json"
    return dict(answer.json())


def test_a_log_is_followed_piece_by_piece(centre: Centre, owner: Client, job: Job) -> None:
    assert "nothing yet" in read(owner, job)["message"]
    centre.backend.write_output(native_id(job), b"one\n")
    first = read(owner, job, -65536)
    assert (first["text"], first["is_complete"], first["is_tail"]) == ("one\n", False, False)
    centre.backend.write_output(native_id(job), b"two\n")
    second = read(owner, job, first["next_offset"])
    assert second["text"] == "two\n"
    assert read(owner, job, second["next_offset"])["text"] == ""


def test_no_character_is_cut_wherever_the_log_ends(centre: Centre, owner: Client, job: Job) -> None:
    text = "训练完成 🎉 ok\n"
    offset, seen = 0, ""
    for byte in text.encode():
        centre.backend.write_output(native_id(job), bytes([byte]))
        piece = read(owner, job, offset)
        offset, seen = piece["next_offset"], seen + piece["text"]
    assert seen == text


def test_a_log_larger_than_one_piece_arrives_whole(centre: Centre, owner: Client, job: Job) -> None:
    text = "中" * 100_000
    centre.backend.write_output(native_id(job), b"x" + text.encode())
    offset, seen = 0, ""
    for _ in range(10):
        piece = read(owner, job, offset)
        offset, seen = piece["next_offset"], seen + piece["text"]
        if not piece["has_more"]:
            break
    assert seen == "x" + text


def test_the_tail_of_a_big_log_starts_with_a_whole_line(centre: Centre, owner: Client, job: Job) -> None:
    lines = [f"行 {number}" for number in range(20_000)]
    centre.backend.write_output(native_id(job), ("\n".join(lines) + "\n").encode())
    tail = read(owner, job, -65536)
    assert tail["is_tail"]
    shown = tail["text"].splitlines()
    assert shown == lines[-len(shown) :]
    assert len(shown) > 1000


def test_bytes_that_are_no_text_are_shown_as_such(centre: Centre, owner: Client, job: Job) -> None:
    centre.backend.write_output(native_id(job), b"a\xff\xfeb\n")
    assert read(owner, job)["text"] == "a\ufffd\ufffdb\n"


def test_a_finished_log_is_complete_even_with_half_a_character(centre: Centre, owner: Client, job: Job) -> None:
    centre.backend.write_output(native_id(job), "好".encode()[:2])
    centre.backend.set_outcome(native_id(job), elapsed_s=1)
    centre.tick(5)
    while Job.objects.get().is_live:
        centre.reconcile()
    piece = read(owner, job)
    assert (piece["text"], piece["is_complete"]) == ("\ufffd", True)


def test_while_the_cluster_is_away_the_page_goes_on(centre: Centre, owner: Client, job: Job) -> None:
    centre.backend.set_available(False)
    piece = read(owner, job, 7)
    assert "answer" in piece["message"]
    assert (piece["next_offset"], piece["is_complete"]) == (7, False)
    assert read(owner, job, 7, name="job-metrics")["next_offset"] == 7
    assert owner.get(job.get_absolute_url()).status_code == 200
    assert owner.get(reverse("job-log-download", args=[job.pk])).status_code == 503


@pytest.mark.parametrize("offset", ["x", "", "1e9", "9" * 40, "--1", "\x00", str(2**63)])
def test_an_offset_that_is_none_reads_from_the_start(centre: Centre, owner: Client, job: Job, offset: str) -> None:
    centre.backend.write_output(native_id(job), b"start\n")
    assert read(owner, job, offset)["text"] == "start\n"
    assert read(owner, job, offset, name="job-metrics")["points"] == []


def test_an_offset_beyond_the_end_reads_nothing(centre: Centre, owner: Client, job: Job) -> None:
    centre.backend.write_output(native_id(job), b"start\n")
    assert read(owner, job, 10_000)["text"] == ""


def test_a_download_is_the_whole_file_as_it_is(centre: Centre, owner: Client, job: Job) -> None:
    data = b"\xff" + "中\n".encode() * 600_000
    centre.backend.write_output(native_id(job), data)
    answer = owner.get(reverse("job-log-download", args=[job.pk]))
    assert b"".join(answer.streaming_content) == data
    assert answer["Content-Type"] == "text/plain; charset=utf-8"
    assert answer["Content-Disposition"].startswith("attachment")
    assert answer["X-Content-Type-Options"] == "nosniff"


def test_a_cluster_that_goes_away_breaks_a_download_visibly(centre: Centre, owner: Client, job: Job) -> None:
    centre.backend.write_output(native_id(job), b"x" * 3_000_000)
    answer = owner.get(reverse("job-log-download", args=[job.pk]))
    pieces = iter(answer.streaming_content)
    next(pieces)
    centre.backend.set_available(False)
    with pytest.raises(SchedulerUnavailable):
        list(pieces)


def test_metrics_come_as_points_with_what_the_curves_need(centre: Centre, owner: Client, job: Job) -> None:
    lines = [
        {"step": 1, "loss": 2.5, "tokens_per_s": 100.0, "step_time_s": 0.5, "learning_rate": 0.1, "note": "<b>"},
        {"step": 2, "loss": 2.0, "validation_loss": 2.1},
        {"no_step": 1},
        {"step": 3, "rss": 5},
    ]
    data = "".join(json.dumps(line) + "\n" for line in lines) + "not json\n" + '{"step": 4, "lo'
    centre.backend.write_output(native_id(job), data.encode(), file="metrics")
    answer = read(owner, job, name="job-metrics")
    assert answer["points"] == [
        {"step": 1, "loss": 2.5, "tokens_per_s": 100.0, "step_time_s": 0.5},
        {"step": 2, "loss": 2.0, "validation_loss": 2.1},
    ]
    centre.backend.write_output(native_id(job), b'ss": 1.5}\n', file="metrics")
    assert read(owner, job, answer["next_offset"], name="job-metrics")["points"] == [{"step": 4, "loss": 1.5}]


def test_very_many_points_are_thinned_but_keep_first_and_last(centre: Centre, owner: Client, job: Job) -> None:
    data = "".join(json.dumps({"step": step, "loss": 1.0}) + "\n" for step in range(20_000))
    centre.backend.write_output(native_id(job), data.encode(), file="metrics")
    answer = owner.get(reverse("job-metrics", args=[job.pk]))
    points = answer.json()["points"]
    assert len(points) == 1000
    assert (points[0]["step"], points[-1]["step"]) == (0, 19_999)
    assert len(answer.content) < 50_000
