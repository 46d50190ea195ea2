"""Clusters, partitions, presets and accelerators."""

from typing import Any

from django.utils import timezone

from accounts.models import Cluster
from jobs.estimation import accelerators, presets
from jobs.services.clusters import sync_inventory
from tests.api.conftest import ApiClient, Site
from tests.factories import make_partition


def test_partitions_say_what_is_free(site: Site, api: ApiClient) -> None:
    site.submit()
    site.tick()
    site.tick(1)
    sync_inventory(at=timezone.now())
    (row,) = api.get("partitions").json()["results"]
    assert (row["cluster"], row["name"], row["accelerator"]) == ("dummy", "a800", "a800-80g")
    assert row["accelerator_title"] == accelerators()["a800-80g"].title
    assert (row["nodes"], row["devices_per_node"]) == (8, 8)
    assert (row["devices_total"], row["devices_in_use"], row["devices_free"]) == (64, 8, 56)
    assert (row["jobs_running"], row["is_up"], row["is_simulated"]) == (1, True, False)
    assert row["max_time_limit_minutes"] == 7 * 24 * 60
    assert row["synced_at"].endswith("Z")


def test_partitions_of_a_cluster_that_takes_no_jobs_are_not_offered(site: Site, api: ApiClient) -> None:
    closed = Cluster.objects.create(code="closed", title="Closed", is_enabled=False)
    make_partition("old", cluster=closed)
    assert [row["name"] for row in api.get("partitions").json()["results"]] == ["a800"]
    clusters = {row["code"]: row["is_enabled"] for row in api.get("clusters").json()["results"]}
    assert clusters == {"closed": False, "dummy": True}


def test_partitions_cost_few_queries_however_many(
    site: Site, api: ApiClient, django_assert_max_num_queries: Any
) -> None:
    for number in range(5):
        make_partition(f"p{number}")
    with django_assert_max_num_queries(4):
        assert len(api.get("partitions").json()["results"]) == 6


def test_a_cluster_that_does_not_answer_is_told(site: Site, api: ApiClient) -> None:
    site.backend.set_available(False)
    sync_inventory(at=timezone.now())
    (row,) = api.get("clusters").json()["results"]
    assert row["is_available"] is False
    assert row["unavailable_since_at"] is not None
    assert "last_error" not in row


def test_the_catalogue_of_the_estimator_is_served_whole_and_in_the_readers_language(api: ApiClient) -> None:
    rows = api.get("presets").json()["results"]
    assert [row["name"] for row in rows] == list(presets())
    assert all(row["parameters"] == presets()[row["name"]].architecture.parameters for row in rows)
    chinese = {row["name"]: row["title"] for row in api.get("presets", Accept_Language="zh-hans").json()["results"]}
    assert chinese["llama-2-7b"] == presets()["llama-2-7b"].title_zh
    codes = [row["code"] for row in api.get("accelerators").json()["results"]]
    assert codes == list(accelerators())
