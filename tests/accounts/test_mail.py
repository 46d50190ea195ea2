"""Notifications by mail: once each, in the reader's language, again after a failure, and given up in the end."""

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.core import mail as outbox
from django.core.mail.backends.locmem import EmailBackend
from django.db import connection
from django.utils import translation

from accounts.models import Notification, User
from accounts.services import mail, notification_wording
from accounts.services.notifications import notify
from tests.factories import HOUR_S, NOW, make_user

FIGURES = {
    "project": "nlp",
    "title": "Speech",
    "request_kind": "SUPPLEMENT",
    "actor": "Wei",
    "words": "well argued",
    "granted_s": 12_000 * HOUR_S,
}


def tell(user: User, **fields: Any) -> Notification:
    notify([user], fields.pop("kind", "request.granted"), at=NOW, figures=FIGURES | fields, path="/requests/1")
    return Notification.objects.latest("pk")


def send(at: datetime = NOW) -> int:
    return mail.send_due_mail(now=lambda: at)


def test_a_mail_says_what_happened_and_where_to_look(db: None, settings: Any) -> None:
    settings.PORTAL_URL = "https://portal.example.org"
    row = tell(make_user("lin", first_name="Xia"))
    assert send() == 1
    (sent,) = outbox.outbox
    assert sent.to == ["lin@example.org"]
    assert sent.subject == "[Training Portal] Granted: 12,000 accelerator-hours for nlp"
    assert "Dear Xia," in sent.body
    assert "Wei has approved the request for “Speech” (supplement) with 12,000 accelerator-hours" in sent.body
    assert "https://portal.example.org/requests/1" in sent.body
    row.refresh_from_db()
    assert (row.mailed_at, row.mail_due_at, row.mail_attempts) == (NOW, None, 1)
    assert send(NOW + timedelta(days=9)) == 0
    assert len(outbox.outbox) == 1


def test_the_language_is_the_readers_own_or_else_the_centres(db: None) -> None:
    tell(make_user(language="zh-hans"))
    tell(make_user())
    with translation.override("zh-hans"):  # whatever the worker was in
        assert send() == 2
    assert [sent.subject.partition("]")[0] for sent in outbox.outbox] == ["[训练门户", "[Training Portal"]


def test_a_day_is_that_of_the_readers_time_zone(db: None) -> None:
    late = "2026-06-01T20:00:00+00:00"
    row = tell(make_user(time_zone="Asia/Shanghai"), kind="starter.granted", resource_class="cpu", end_at=late)
    assert send() == 1
    assert "until 2026-06-02" in outbox.outbox[0].body
    assert "until 2026-06-01" in notification_wording.describe(row).text, "UTC, as nothing is switched on"


def test_a_mail_server_that_refuses_is_asked_again_ever_later_and_at_last_no_more(
    db: None, settings: Any, caplog: pytest.LogCaptureFixture
) -> None:
    settings.EMAIL_BACKEND = f"{__name__}.RefusingBackend"
    row, at, pauses = tell(make_user()), NOW, []
    for _attempt in range(mail.MAX_ATTEMPTS):
        assert send(at) == 0
        row.refresh_from_db()
        if row.mail_due_at is not None:
            assert send(row.mail_due_at - timedelta(seconds=1)) == 0
            pauses.append(row.mail_due_at - at)
            at = row.mail_due_at
    assert pauses[:3] == [timedelta(minutes=10), timedelta(minutes=20), timedelta(minutes=40)]
    row.refresh_from_db()
    assert (row.mail_attempts, row.mail_due_at, row.mailed_at) == (mail.MAX_ATTEMPTS, None, None)
    assert "given up" in caplog.text


def test_one_bad_mail_keeps_no_other(db: None, settings: Any) -> None:
    settings.EMAIL_BACKEND = f"{__name__}.PickyBackend"
    tell(make_user("bad"))
    tell(make_user("good"))
    assert send() == 1
    assert [sent.to for sent in outbox.outbox] == [["good@example.org"]]


def test_who_has_no_address_or_no_account_gets_none(db: None) -> None:
    nobody, gone = make_user("a"), make_user("b")
    tell(nobody)
    tell(gone)
    User.objects.filter(pk=nobody.pk).update(email="")
    User.objects.filter(pk=gone.pk).update(is_active=False)
    assert send() == 0
    assert list(Notification.objects.values_list("mail_due_at", flat=True)) == [None, None]


def test_a_line_break_in_a_figure_becomes_no_header(db: None) -> None:
    tell(make_user(), project="nlp\nBcc: everybody@example.org")
    assert send() == 1
    assert "\n" not in outbox.outbox[0].subject


def test_an_unknown_kind_and_a_missing_figure_keep_nobody_from_reading(db: None) -> None:
    user = make_user()
    notify([user], "something.new", at=NOW)
    notify([user], "request.granted", at=NOW)
    first, second = Notification.objects.order_by("pk")
    assert notification_wording.describe(first).subject == "something.new"
    assert notification_wording.describe(second).subject == "Granted: – accelerator-hours for –"


@pytest.mark.parametrize("kind", sorted(notification_wording.WORDS))
def test_every_kind_can_be_worded(kind: str) -> None:
    words = notification_wording.describe(Notification(kind=kind, figures={}))
    assert words.subject
    assert words.text


@pytest.mark.django_db(transaction=True)
def test_workers_at_the_same_moment_send_each_mail_once() -> None:
    for _number in range(10):
        tell(make_user())
    barrier = threading.Barrier(4)

    def work() -> int:
        barrier.wait()
        try:
            return mail.send_due_mail(now=lambda: NOW, limit=4)
        finally:
            connection.close()

    with ThreadPoolExecutor(4) as pool:
        first = sum(pool.map(lambda _number: work(), range(4)))
    rest = sum(mail.send_due_mail(now=lambda: NOW, limit=4) for _turn in range(4))
    assert first + rest == 10
    assert len({sent.to[0] for sent in outbox.outbox}) == len(outbox.outbox) == 10


class RefusingBackend(EmailBackend):
    def send_messages(self, messages: Any) -> int:
        raise ConnectionRefusedError("no mail server")


class PickyBackend(EmailBackend):
    def send_messages(self, messages: Any) -> int:
        if "bad@" in messages[0].to[0]:
            raise OSError("550 no such user")
        return int(super().send_messages(messages))
