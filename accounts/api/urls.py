"""Routes of people, projects and allocations, below the API's root."""

from django.urls import path

from accounts.api import audit_views, member_views, views

urlpatterns = [
    path("auth/token", views.TokenView.as_view(), name="api-token"),
    path("me", views.MeView.as_view(), name="api-me"),
    path("projects", views.ProjectList.as_view(), name="api-projects"),
    path("projects/<slug:code>", views.ProjectDetail.as_view(), name="api-project"),
    path("projects/<slug:code>/members", member_views.MemberCollection.as_view(), name="api-project-members"),
    path("projects/<slug:code>/members/<str:username>", member_views.MemberDetail.as_view(), name="api-project-member"),
    path("allocations", views.AllocationList.as_view(), name="api-allocations"),
    path("allocations/<uuid:uuid>", views.AllocationDetail.as_view(), name="api-allocation"),
    path("allocations/<uuid:uuid>/entries", views.EntryList.as_view(), name="api-allocation-entries"),
    path("clusters", views.ClusterList.as_view(), name="api-clusters"),
    path("audit", audit_views.AuditList.as_view(), name="api-audit"),
]
