"""Where tokens come from, on a real Slurm: the token broker, or files."""

import json
import os
import pwd
import time
from collections.abc import Iterator

import httpx
import pytest

from jobs.backends.base import SchedulerUnavailable, SubmissionRejected
from jobs.backends.slurm.tokens import TokenBroker, read_expiry
from jobs.states import JobState
from tests.backends.harness import LONG, Behaviour, wait_until
from tests.backends.slurm_harness import SlurmRestHarness, TokenDirectoryHarness, is_running, write_token
from tests.integration.slurm.lab import SlurmLab
from tests.integration.slurm.layout import ALICE, BOB, DAVE, PORTAL_USER

pytestmark = pytest.mark.slurm


@pytest.fixture
def broker(slurm_lab: SlurmLab) -> Iterator[SlurmRestHarness]:
    """A real slurmrestd, with the token broker."""
    with SlurmRestHarness.on(slurm_lab) as harness:
        harness.lab.layout.broker_audit_log.write_text("")
        yield harness


@pytest.fixture
def files(slurm_lab: SlurmLab) -> Iterator[TokenDirectoryHarness]:
    """A real slurmrestd, with tokens in files."""
    with TokenDirectoryHarness.on(slurm_lab) as harness:
        yield harness


def grants(harness: SlurmRestHarness) -> list[str]:
    """For whom the broker has given tokens, in order."""
    lines = [json.loads(line) for line in harness.lab.layout.broker_audit_log.read_text().splitlines()]
    return [line["user"] for line in lines if line["outcome"] == "granted"]


# The broker


def test_a_job_goes_its_way_as_the_researcher_on_tokens_that_the_broker_made(broker: SlurmRestHarness) -> None:
    spec = broker.make_spec(LONG, script="#!/bin/bash\nid -un\nsleep 300\n")
    native_id = broker.backend.submit(spec, key=spec.key)
    assert broker.backend.find(spec.key) == native_id
    broker.wait(native_id, is_running)
    wait_until(lambda: broker.read_text(native_id) == f"{ALICE}\n", "its first line")
    assert (broker.directory / spec.key / "stdout.log").stat().st_uid == pwd.getpwnam(ALICE).pw_uid
    broker.backend.cancel(native_id)
    assert broker.wait(native_id).state is JobState.CANCELLED
    # However much was asked of Slurm: one token for each of the two.
    assert sorted(grants(broker)) == [ALICE, PORTAL_USER]


def test_a_researcher_who_is_not_on_the_list_is_refused_in_words(broker: SlurmRestHarness) -> None:
    spec = broker.make_spec(unix_user=DAVE)
    with pytest.raises(SubmissionRejected, match=f"{DAVE}.*list"):
        broker.backend.submit(spec, key=spec.key)
    assert broker.backend.find(spec.key) is None
    assert not (broker.directory / spec.key).exists()


def test_who_is_taken_off_the_list_keeps_their_jobs_but_the_portal_says_why_it_can_not_end_them(
    broker: SlurmRestHarness,
) -> None:
    native_id = broker.submit(LONG)
    users = broker.lab.layout.broker_users
    listed = users.read_text()
    users.write_text(f"{BOB}\n")
    try:
        another = broker.open_backend()
        assert another.poll([native_id])[native_id].state in (JobState.PENDING, JobState.RUNNING)
        with pytest.raises(SchedulerUnavailable, match="list"):
            another.cancel(native_id)
    finally:
        users.write_text(listed)
    broker.backend.cancel(native_id)


@pytest.fixture
def short_lived(broker: SlurmRestHarness) -> Iterator[SlurmRestHarness]:
    """A broker whose tokens live for ten seconds."""
    lab = broker.lab
    configuration = lab.layout.broker / "broker.toml"
    text = configuration.read_text()
    configuration.write_text(text.replace("token_life_s = 300", "token_life_s = 10"))
    lab.stop("token_broker")
    lab.start("token_broker")
    try:
        yield broker
    finally:
        configuration.write_text(text)
        lab.stop("token_broker")  # the next that needs it starts it again


def test_an_expired_token_is_renewed_before_slurm_sees_it(short_lived: SlurmRestHarness) -> None:
    backend = short_lived.backend
    backend.submit(spec := short_lived.make_spec(), key=spec.key)
    first = backend._client._tokens._kept[ALICE][0]
    time.sleep(max(0.0, read_expiry(first) - time.time()) + 1)
    backend.submit(spec := short_lived.make_spec(), key=spec.key)
    assert len(short_lived.jobs_with(spec.key)) == 1
    assert grants(short_lived).count(ALICE) == 2
    headers = {"X-SLURM-USER-NAME": ALICE, "X-SLURM-USER-TOKEN": first}
    answer = httpx.get(f"{short_lived.lab.layout.rest_url}/slurm/v0.0.38/ping", headers=headers, timeout=30)
    assert answer.status_code == 500, "the first one really is over"


def test_a_token_that_is_about_to_end_is_no_token(broker: SlurmRestHarness) -> None:
    source = TokenBroker(str(broker.lab.layout.broker_socket), clock=lambda: time.time() + 296)
    with pytest.raises(SchedulerUnavailable, match="do both clocks agree"):
        source.token_for(ALICE)


def test_a_token_that_slurm_does_not_take_any_more_is_not_used_twice(broker: SlurmRestHarness) -> None:
    source = broker.backend._client._tokens
    assert isinstance(source, TokenBroker)
    broker.backend.ping()
    kept = source._kept[PORTAL_USER]
    head, claims, signature = kept[0].split(".")
    source._kept[PORTAL_USER] = (f"{head}.{claims}.{signature[::-1]}", kept[1])  # as after an exchange of the key
    with pytest.raises(SchedulerUnavailable):
        broker.backend.ping()
    broker.backend.ping()


def test_after_an_exchange_of_the_key_the_portal_goes_on(broker: SlurmRestHarness) -> None:
    lab = broker.lab
    running = broker.submit(LONG)
    broker.wait(running, is_running)
    time.sleep(2)  # a controller that remembers the job
    # Written over, which keeps owner and mode; the guide has a rename, which the broker's own tests have as well.
    new = os.urandom(32)
    lab.layout.jwt_key.write_bytes(new)
    for daemon in ("slurmctld", "slurmdbd"):
        lab.stop(daemon)
    for daemon in ("slurmdbd", "slurmctld"):
        lab.start(daemon)
    lab.wait_for_nodes()
    spec = broker.make_spec()
    with pytest.raises(SchedulerUnavailable):
        broker.backend.submit(spec, key=spec.key)
    (lab.layout.broker / "jwt_hs256.key").write_bytes(new)
    time.sleep(1.1)  # the time of doubt
    with pytest.raises(SchedulerUnavailable):
        broker.backend.ping()  # the portal's own token is still an old one; it is thrown away by this
    assert broker.status(running).state is JobState.RUNNING
    assert broker.backend.submit(spec, key=spec.key) in broker.jobs_with(spec.key)


def test_questions_about_jobs_that_slurm_does_not_know_cost_no_tokens(broker: SlurmRestHarness) -> None:
    for _ in range(5):
        assert broker.backend.poll(["999999"]) == {}
    assert grants(broker) == [PORTAL_USER]


def test_a_broker_that_is_away_is_named_and_nothing_is_lost(broker: SlurmRestHarness) -> None:
    broker.lab.stop("token_broker")
    spec = broker.make_spec()
    with pytest.raises(SchedulerUnavailable, match=r"token broker at .* doesn't answer"):
        broker.backend.submit(spec, key=spec.key)
    broker.lab.start("token_broker")
    time.sleep(1.1)  # the time of doubt
    native_id = broker.backend.submit(spec, key=spec.key)
    assert broker.jobs_with(spec.key) == [native_id]


# Files


def test_tokens_in_files_do_as_well(files: TokenDirectoryHarness) -> None:
    native_id = files.submit(Behaviour(exit_code=0))
    assert files.wait(native_id).state is JobState.COMPLETED


def test_an_expired_token_is_named_before_slurm_is_asked(files: TokenDirectoryHarness) -> None:
    write_token(files.lab, ALICE, files.lab.mint_token(ALICE, lifespan_s=1))
    spec = files.make_spec()
    with pytest.raises(SchedulerUnavailable, match="expired"):
        files.backend.submit(spec, key=spec.key)


def test_a_token_of_another_user_opens_nothing(files: TokenDirectoryHarness) -> None:
    write_token(files.lab, ALICE, files.lab.mint_token(BOB))
    spec = files.make_spec()
    with pytest.raises(SchedulerUnavailable):
        files.backend.submit(spec, key=spec.key)
    assert files.jobs_with(spec.key) == []


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o666])
def test_a_token_that_others_may_read_is_not_used(files: TokenDirectoryHarness, mode: int) -> None:
    write_token(files.lab, PORTAL_USER, files.lab.mint_token(PORTAL_USER), mode=mode)
    with pytest.raises(SchedulerUnavailable, match="0600"):
        files.backend.ping()


def test_a_researcher_for_whom_the_broker_has_no_token_is_named(files: TokenDirectoryHarness) -> None:
    (files.lab.layout.tokens / f"{ALICE}.jwt").unlink()
    spec = files.make_spec()
    with pytest.raises(SchedulerUnavailable, match=ALICE):
        files.backend.submit(spec, key=spec.key)
