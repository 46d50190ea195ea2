"""Routes of people, projects and allocations, below the API's root."""

from django.urls import path

from accounts.api import audit_views, member_views, request_views, views

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
    path("requests", request_views.RequestCollection.as_view(), name="api-requests"),
    path("requests/<uuid:uuid>", request_views.RequestDetail.as_view(), name="api-request"),
    path("requests/<uuid:uuid>/approve", request_views.RequestApprove.as_view(), name="api-request-approve"),
    path("requests/<uuid:uuid>/reject", request_views.RequestReject.as_view(), name="api-request-reject"),
    path("requests/<uuid:uuid>/ask-back", request_views.RequestAskBack.as_view(), name="api-request-ask-back"),
    path("requests/<uuid:uuid>/answer", request_views.RequestAnswer.as_view(), name="api-request-answer"),
    path("requests/<uuid:uuid>/withdraw", request_views.RequestWithdraw.as_view(), name="api-request-withdraw"),
    path("clusters", views.ClusterList.as_view(), name="api-clusters"),
    path("audit", audit_views.AuditList.as_view(), name="api-audit"),
]
