"""Where everything is."""

from django.contrib import admin
from django.urls import include, path

from portal import health

urlpatterns = [
    path("", include("jobs.urls")),
    path("", include("accounts.urls")),
    path("account/", include("allauth.account.urls")),
    path("i18n/", include("django.conf.urls.i18n")),
    path("api/v1/", include("portal.api.urls")),
    path("admin/", admin.site.urls),
    path("healthz", health.healthz, name="healthz"),
]
