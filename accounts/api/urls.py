"""Routes of people, projects and allocations, below the API's root."""

from django.urls import path

from accounts.api import views

urlpatterns = [
    path("auth/token", views.TokenView.as_view(), name="api-token"),
    path("me", views.MeView.as_view(), name="api-me"),
    path("projects", views.ProjectList.as_view(), name="api-projects"),
    path("projects/<slug:code>", views.ProjectDetail.as_view(), name="api-project"),
    path("allocations", views.AllocationList.as_view(), name="api-allocations"),
    path("allocations/<uuid:uuid>", views.AllocationDetail.as_view(), name="api-allocation"),
    path("allocations/<uuid:uuid>/entries", views.EntryList.as_view(), name="api-allocation-entries"),
    path("clusters", views.ClusterList.as_view(), name="api-clusters"),
]
