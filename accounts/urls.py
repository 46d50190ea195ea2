"""Pages of projects, requests and people."""

from django.urls import URLPattern, path

from accounts.views import appointments, audit, members, notifications, profile, projects, requests, researchers

urlpatterns: list[URLPattern] = [
    path("projects/", projects.project_list, name="project-list"),
    path("projects/<slug:code>/", projects.project_page, name="project-detail"),
    path("profile/", profile.profile, name="profile"),
    path("requests/", requests.request_list, name="request-list"),
    path("requests/new", requests.choose_kind, name="request-choose"),
    path("requests/new/<slug:kind>", requests.new_request, name="request-new"),
    path("requests/<uuid:uuid>", requests.request_page, name="request-detail"),
    path("requests/<uuid:uuid>/answer", requests.answer, name="request-answer"),
    path("requests/<uuid:uuid>/ask-back", requests.ask_back, name="request-ask-back"),
    path("requests/<uuid:uuid>/approve", requests.approve, name="request-approve"),
    path("requests/<uuid:uuid>/reject", requests.reject, name="request-reject"),
    path("requests/<uuid:uuid>/withdraw", requests.withdraw, name="request-withdraw"),
    path("notifications/", notifications.notification_list, name="notification-list"),
    path("notifications/read", notifications.read_all, name="notification-read-all"),
    path("notifications/<int:pk>/read", notifications.read_one, name="notification-read"),
    path("researchers/verify", researchers.verify, name="researcher-verify"),
    path("projects/<slug:code>/members/", members.member_page, name="project-members"),
    path("projects/<slug:code>/members/add", members.add, name="project-member-add"),
    path("projects/<slug:code>/members/<int:user_id>/role", members.change_role, name="project-member-role"),
    path("projects/<slug:code>/members/<int:user_id>/remove", members.remove, name="project-member-remove"),
    path("appointments/", appointments.appointment_page, name="appointment-list"),
    path("appointments/appoint", appointments.appoint, name="appointment-appoint"),
    path("appointments/<int:pk>/end", appointments.end, name="appointment-end"),
    path("audit/", audit.audit_page, name="audit-list"),
    path("audit/export", audit.audit_export, name="audit-export"),
]
