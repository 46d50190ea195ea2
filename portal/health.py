"""Is the portal able to work?"""

from django.core.cache import cache
from django.db import DatabaseError, connection
from django.http import HttpRequest, JsonResponse
from django.views.decorators.http import require_safe
from redis.exceptions import RedisError


@require_safe
def healthz(request: HttpRequest) -> JsonResponse:
    """200 if database and broker answer, else 503; names the part that doesn't, never why (that is in the log)."""
    parts = {"database": _database_answers(), "broker": _broker_answers()}
    return JsonResponse(
        {"status": "ok" if all(parts.values()) else "unavailable", **parts}, status=200 if all(parts.values()) else 503
    )


def _database_answers() -> bool:
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
    except DatabaseError:
        return False
    return True


def _broker_answers() -> bool:
    try:
        cache.get("healthz")
    except RedisError:
        return False
    return True
