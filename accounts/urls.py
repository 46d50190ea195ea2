"""Pages of projects and people."""

from django.urls import URLPattern, path

from accounts.views import appointments, audit, members, profile, projects

urlpatterns: list[URLPattern] = [
    path("projects/", projects.project_list, name="project-list"),
    path("projects/<slug:code>/", projects.project_page, name="project-detail"),
    path("profile/", profile.profile, name="profile"),
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
