"""The people who look at pages: the owner of a job, a team-mate, who leads the project, and a stranger."""

from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest
from django.test import Client

from accounts.models import Membership, Partition, User
from jobs.backends.dummy import DummyBackend
from jobs.services.schedulers import schedulers
from tests.factories import NOW, make_project, make_user
from tests.jobs.conftest import Centre, centre

__all__ = ["centre"]

SignIn = Callable[[User], Client]

CONFIG_JSON = """{"model_type": "llama", "num_hidden_layers": 32, "hidden_size": 4096, "intermediate_size": 11008,
"num_attention_heads": 32, "vocab_size": 32000, "max_position_embeddings": 4096}"""


@pytest.fixture(autouse=True)
def _same_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages see the time that the scheduler in memory has, so that no test depends on today's date."""

    def now() -> datetime:
        backend = schedulers["dummy"]
        assert isinstance(backend, DummyBackend)
        return max(backend.now, NOW)

    monkeypatch.setattr("django.utils.timezone.now", now)


@pytest.fixture
def sign_in() -> SignIn:
    def signed_in(user: User) -> Client:
        client = Client()
        client.force_login(user)
        return client

    return signed_in


@pytest.fixture
def owner(centre: Centre) -> Client:
    client = Client()
    client.force_login(centre.user)
    return client


@pytest.fixture
def teammate(centre: Centre) -> User:
    user = make_user("zhao")
    Membership.objects.create(project=centre.project, user=user)
    return user


@pytest.fixture
def lead(centre: Centre) -> User:
    return User.objects.get(username="chen")


@pytest.fixture
def stranger(centre: Centre) -> User:
    user = make_user("sun")
    make_project("elsewhere", members=(user,))
    return user


def address(partition: Partition) -> str:
    return f"{partition.cluster.code}/{partition.name}"


def filled_form(centre: Centre, **changes: Any) -> dict[str, Any]:
    """What a browser sends for a job without a model; a field set to None is left out."""
    data = {
        "project": centre.project.code,
        "partition": address(centre.partition),
        "nodes": "1",
        "devices_per_node": "8",
        "time_limit": "2 h",
        "model_source": "none",
        "entry_kind": "script",
        "script": "#!/bin/bash\r\necho hello\r\n",
        "name": "hello",
        "form_key": "key-of-this-form",
        **changes,
    }
    return {name: value for name, value in data.items() if value is not None}


def filled_model_form(centre: Centre, **changes: Any) -> dict[str, Any]:
    """What a browser sends for a training run of a known model."""
    return filled_form(
        centre,
        **{"model_source": "preset", "preset": "llama-2-7b", "tokens": "2B", "task": "pretraining", **changes},
    )
