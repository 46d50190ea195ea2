"""Routes of the REST API."""

from django.urls import include, path, re_path

from portal.api import documentation

urlpatterns = [
    path("", include("accounts.api.urls")),
    path("", include("jobs.api.urls")),
    path("openapi.json", documentation.OpenApiJson.as_view(), name="api-openapi-json"),
    path("openapi.yaml", documentation.OpenApiYaml.as_view(), name="api-openapi-yaml"),
    path("docs/", documentation.SwaggerPage.as_view(), name="api-docs"),
    path("redoc/", documentation.RedocPage.as_view(), name="api-redoc"),
    path("problems/<slug:slug>", documentation.ProblemTypeView.as_view(), name="api-problem"),
    re_path(r"^[\s\S]*\Z", documentation.UnknownRoute.as_view(), name="api-unknown"),
]
