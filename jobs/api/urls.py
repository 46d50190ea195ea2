"""Routes of jobs, estimates and inventory, below the API's root."""

from django.urls import path

from jobs.api import catalogue_views, job_views, report_views

urlpatterns = [
    path("partitions", catalogue_views.PartitionList.as_view(), name="api-partitions"),
    path("presets", catalogue_views.PresetList.as_view(), name="api-presets"),
    path("accelerators", catalogue_views.AcceleratorList.as_view(), name="api-accelerators"),
    path("estimates", catalogue_views.EstimateView.as_view(), name="api-estimates"),
    path("jobs", job_views.JobCollection.as_view(), name="api-jobs"),
    path("jobs/<uuid:job_id>", job_views.JobDetail.as_view(), name="api-job"),
    path("jobs/<uuid:job_id>/cancel", job_views.JobCancel.as_view(), name="api-job-cancel"),
    path("jobs/<uuid:job_id>/resubmit", job_views.JobResubmit.as_view(), name="api-job-resubmit"),
    path("jobs/<uuid:job_id>/events", job_views.JobEventList.as_view(), name="api-job-events"),
    path("jobs/<uuid:job_id>/log", job_views.JobLog.as_view(), name="api-job-log"),
    path("jobs/<uuid:job_id>/metrics", job_views.JobMetrics.as_view(), name="api-job-metrics"),
    path("jobs/<uuid:job_id>/script", job_views.JobScript.as_view(), name="api-job-script"),
    path("reports/usage", report_views.UsageReportView.as_view(), name="api-usage-report"),
]
