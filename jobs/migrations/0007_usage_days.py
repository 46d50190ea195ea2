"""Sums of use per day, and triggers that say which days have changed: whoever writes, nothing is missed."""

import django.db.models.deletion
from django.conf import settings
from django.db import migrations, models

CREATE = """
CREATE FUNCTION jobs_note_usage_day() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP <> 'INSERT' THEN
        INSERT INTO jobs_usagedaytorefresh (day) VALUES ((OLD.ended_at AT TIME ZONE 'UTC')::date);
    END IF;
    IF TG_OP = 'INSERT' OR (TG_OP = 'UPDATE' AND NEW.ended_at IS DISTINCT FROM OLD.ended_at) THEN
        INSERT INTO jobs_usagedaytorefresh (day) VALUES ((NEW.ended_at AT TIME ZONE 'UTC')::date);
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER jobs_usagerecord_note_day AFTER INSERT OR UPDATE OR DELETE ON jobs_usagerecord
    FOR EACH ROW EXECUTE FUNCTION jobs_note_usage_day();

CREATE FUNCTION jobs_note_days_of_job(one uuid) RETURNS void LANGUAGE sql AS $$
    INSERT INTO jobs_usagedaytorefresh (day)
    SELECT (ended_at AT TIME ZONE 'UTC')::date FROM jobs_job WHERE id = one AND ended_at IS NOT NULL
    UNION
    SELECT (r.ended_at AT TIME ZONE 'UTC')::date
    FROM jobs_usagerecord r JOIN jobs_jobsegment s ON s.id = r.segment_id WHERE s.job_id = one
$$;

CREATE FUNCTION jobs_note_job() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP <> 'INSERT' AND OLD.settled_at IS NOT NULL AND OLD.ended_at IS NOT NULL THEN
        INSERT INTO jobs_usagedaytorefresh (day) VALUES ((OLD.ended_at AT TIME ZONE 'UTC')::date);
    END IF;
    IF TG_OP <> 'DELETE' THEN
        PERFORM jobs_note_days_of_job(NEW.id);
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER jobs_job_note_new AFTER INSERT ON jobs_job
    FOR EACH ROW WHEN (NEW.settled_at IS NOT NULL) EXECUTE FUNCTION jobs_note_job();
CREATE TRIGGER jobs_job_note_deleted AFTER DELETE ON jobs_job
    FOR EACH ROW WHEN (OLD.settled_at IS NOT NULL) EXECUTE FUNCTION jobs_note_job();
-- Before its end a job changes often, and none of that is in the sums but whose and where it is.
CREATE TRIGGER jobs_job_note_changed AFTER UPDATE ON jobs_job
    FOR EACH ROW WHEN (
        (OLD.project_id, OLD.user_id, OLD.partition_id) IS DISTINCT FROM (NEW.project_id, NEW.user_id, NEW.partition_id)
        OR OLD.workload IS DISTINCT FROM NEW.workload
        OR ((OLD.ended_at IS NOT NULL OR NEW.ended_at IS NOT NULL)
            AND (OLD.state, OLD.ended_at, OLD.settled_at, OLD.queued_at, OLD.started_at, OLD.reserved_s, OLD.charged_s)
            IS DISTINCT FROM
            (NEW.state, NEW.ended_at, NEW.settled_at, NEW.queued_at, NEW.started_at, NEW.reserved_s, NEW.charged_s))
    ) EXECUTE FUNCTION jobs_note_job();

CREATE FUNCTION jobs_note_part_of_job() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP <> 'INSERT' THEN PERFORM jobs_note_days_of_job(OLD.job_id); END IF;
    IF TG_OP <> 'DELETE' THEN PERFORM jobs_note_days_of_job(NEW.job_id); END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER jobs_measurement_note_day AFTER INSERT OR UPDATE OR DELETE ON jobs_measurement
    FOR EACH ROW EXECUTE FUNCTION jobs_note_part_of_job();
CREATE TRIGGER jobs_estimate_note_day AFTER INSERT OR UPDATE OR DELETE ON jobs_estimate
    FOR EACH ROW EXECUTE FUNCTION jobs_note_part_of_job();

-- What there is already is summed by the first refresh.
INSERT INTO jobs_usagedaytorefresh (day)
    SELECT (ended_at AT TIME ZONE 'UTC')::date FROM jobs_usagerecord
    UNION SELECT (ended_at AT TIME ZONE 'UTC')::date FROM jobs_job WHERE settled_at IS NOT NULL AND ended_at IS NOT NULL;
"""

DROP = """
DROP TRIGGER jobs_usagerecord_note_day ON jobs_usagerecord;
DROP TRIGGER jobs_job_note_new ON jobs_job;
DROP TRIGGER jobs_job_note_deleted ON jobs_job;
DROP TRIGGER jobs_job_note_changed ON jobs_job;
DROP TRIGGER jobs_measurement_note_day ON jobs_measurement;
DROP TRIGGER jobs_estimate_note_day ON jobs_estimate;
DROP FUNCTION jobs_note_usage_day();
DROP FUNCTION jobs_note_job();
DROP FUNCTION jobs_note_part_of_job();
DROP FUNCTION jobs_note_days_of_job(uuid);
"""


class Migration(migrations.Migration):

    dependencies = [
        ('accounts', '0009_cohorts'),
        ('jobs', '0006_preemptible'),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.CreateModel(
            name='UsageDay',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('day', models.DateField(verbose_name='day')),
                ('model_family', models.CharField(blank=True, max_length=32, verbose_name='model family')),
                ('end_state', models.CharField(blank=True, max_length=16, verbose_name='end')),
                ('jobs', models.BigIntegerField(default=0)),
                ('records', models.BigIntegerField(default=0)),
                ('used_s', models.BigIntegerField(default=0)),
                ('charged_s', models.BigIntegerField(default=0)),
                ('shortfall_s', models.BigIntegerField(default=0)),
                ('reserved_s', models.BigIntegerField(default=0, help_text='Held for jobs that started, until their end.')),
                ('idle_s', models.BigIntegerField(default=0, help_text='Held and not used: what was reserved less the charge.')),
                ('wait_s', models.BigIntegerField(default=0)),
                ('waited_jobs', models.BigIntegerField(default=0)),
                ('time_bias_e6', models.BigIntegerField(default=0)),
                ('time_error_e6', models.BigIntegerField(default=0)),
                ('time_jobs', models.BigIntegerField(default=0)),
                ('memory_bias_e6', models.BigIntegerField(default=0)),
                ('memory_error_e6', models.BigIntegerField(default=0)),
                ('memory_jobs', models.BigIntegerField(default=0)),
            ],
            options={
                'verbose_name': 'use of a day',
                'verbose_name_plural': 'use by day',
            },
        ),
        migrations.CreateModel(
            name='UsageDayToRefresh',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('day', models.DateField()),
            ],
            options={
                'verbose_name': 'day to be summed again',
                'verbose_name_plural': 'days to be summed again',
            },
        ),
        migrations.AddIndex(
            model_name='job',
            index=models.Index(condition=models.Q(('settled_at__isnull', False)), fields=['ended_at'], name='jobs_job_ended'),
        ),
        migrations.AddField(
            model_name='usageday',
            name='partition',
            field=models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='+', to='accounts.partition', verbose_name='partition'),
        ),
        migrations.AddField(
            model_name='usageday',
            name='project',
            field=models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='+', to='accounts.project', verbose_name='project'),
        ),
        migrations.AddField(
            model_name='usageday',
            name='user',
            field=models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='+', to=settings.AUTH_USER_MODEL, verbose_name='user'),
        ),
        migrations.AddIndex(
            model_name='usageday',
            index=models.Index(fields=['project', 'day'], name='jobs_usageday_of_project'),
        ),
        migrations.AddIndex(
            model_name='usageday',
            index=models.Index(fields=['user', 'day'], name='jobs_usageday_of_user'),
        ),
        migrations.AddConstraint(
            model_name='usageday',
            constraint=models.UniqueConstraint(fields=('day', 'project', 'user', 'partition', 'model_family', 'end_state'), name='jobs_usageday_once'),
        ),
        migrations.RunSQL(CREATE, DROP),
    ]
