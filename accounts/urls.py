"""Pages of projects and people."""

from django.urls import URLPattern, path

from accounts import views

urlpatterns: list[URLPattern] = [
    path("projects/", views.project_list, name="project-list"),
    path("projects/<slug:code>/", views.project_page, name="project-detail"),
    path("profile/", views.profile, name="profile"),
]
