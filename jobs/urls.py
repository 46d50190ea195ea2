"""Pages of jobs and clusters, and the parts that they load."""

from django.urls import URLPattern, path

from jobs.views import (
    associations,
    clusters,
    dashboard,
    job_list,
    job_page,
    new_job,
    output,
    project_parts,
    reports,
    statements,
)

urlpatterns: list[URLPattern] = [
    path("", dashboard.dashboard, name="dashboard"),
    path("live", dashboard.dashboard_live, name="dashboard-live"),
    path("jobs/", job_list.job_list, name="job-list"),
    path("jobs/new", new_job.new_job, name="job-new"),
    path("jobs/new/estimate", new_job.live_estimate, name="job-estimate"),
    path("jobs/new/script", new_job.script_preview, name="job-script-preview"),
    path("jobs/<uuid:job_id>", job_page.job_page, name="job-detail"),
    path("jobs/<uuid:job_id>/live", job_page.job_live, name="job-live"),
    path("jobs/<uuid:job_id>/cancel", job_page.job_cancel, name="job-cancel"),
    path("jobs/<uuid:job_id>/log", output.job_log, name="job-log"),
    path("jobs/<uuid:job_id>/log/download", output.job_log_download, name="job-log-download"),
    path("jobs/<uuid:job_id>/metrics", output.job_metrics, name="job-metrics"),
    path("projects/<slug:code>/usage", project_parts.project_usage, name="project-usage"),
    path("projects/<slug:code>/ledger", project_parts.project_ledger, name="project-ledger"),
    path("projects/<slug:code>/forecast", reports.project_forecast, name="project-forecast"),
    path("projects/<slug:code>/statements/", statements.statement_list, name="project-statements"),
    path("projects/<slug:code>/statements/<str:month>/", statements.statement_page, name="project-statement"),
    path("reports/", reports.usage_report, name="usage-report"),
    path("reports/export", reports.usage_report_export, name="usage-report-export"),
    path("clusters/", clusters.cluster_list, name="cluster-list"),
    path("clusters/<slug:code>/associations/", associations.cluster_associations, name="cluster-associations"),
    path(
        "clusters/<slug:code>/associations/look",
        associations.cluster_associations_look,
        name="cluster-associations-look",
    ),
    path(
        "clusters/<slug:code>/associations/apply",
        associations.cluster_associations_apply,
        name="cluster-associations-apply",
    ),
    path("clusters/live", clusters.cluster_list_live, name="cluster-list-live"),
    path("clusters/<slug:cluster>/<str:name>/", clusters.partition_page, name="partition-detail"),
    path("clusters/<slug:cluster>/<str:name>/live", clusters.partition_live, name="partition-live"),
]
