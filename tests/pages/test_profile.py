"""One's own profile."""

from django.test import Client

from tests.jobs.conftest import Centre


def test_name_and_time_zone_are_saved_and_used(centre: Centre, owner: Client) -> None:
    answer = owner.post("/profile/", {"first_name": "霞", "last_name": "林", "time_zone": "Asia/Shanghai"}, follow=True)
    assert "Your profile is saved." in answer.content.decode()
    centre.user.refresh_from_db()
    assert (centre.user.first_name, centre.user.time_zone) == ("霞", "Asia/Shanghai")
    job = centre.submit()
    assert "2026-06-01 16:00" in owner.get(job.get_absolute_url()).content.decode(), "08:00 UTC"


def test_a_time_zone_that_is_none_is_refused(centre: Centre, owner: Client) -> None:
    answer = owner.post("/profile/", {"first_name": "kept", "last_name": "", "time_zone": "Mars/Olympus"})
    assert answer.status_code == 200
    assert "time_zone" in answer.context["form"].errors
    assert 'value="kept"' in answer.content.decode()
    centre.user.refresh_from_db()
    assert centre.user.time_zone == ""


def test_other_fields_cannot_be_set(centre: Centre, owner: Client) -> None:
    owner.post("/profile/", {"first_name": "a", "is_staff": "on", "is_superuser": "on", "unix_username": "root"})
    centre.user.refresh_from_db()
    assert (centre.user.is_staff, centre.user.is_superuser, centre.user.unix_username) == (False, False, "lin")


def test_password_and_projects_are_linked(owner: Client) -> None:
    page = owner.get("/profile/").content.decode()
    assert "/account/password/change/" in page
    assert "/projects/nlp/" in page
