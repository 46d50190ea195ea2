"""The page on which a project's members are added, changed and removed."""

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.http import require_POST, require_safe

from accounts import access
from accounts.acting import act_of
from accounts.forms.members import MemberForm, RoleForm
from accounts.models import Membership, Project, Role
from accounts.services import members
from accounts.services.refusals import ActForbidden, ActRefused


@login_required
@require_safe
def member_page(request: HttpRequest, code: str) -> HttpResponse:
    """The members, with what can be done about each."""
    return _render(request, _get_project(request, code), MemberForm())


@login_required
@require_POST
def add(request: HttpRequest, code: str) -> HttpResponse:
    """Take a person in."""
    project = _get_project(request, code)
    form = MemberForm(request.POST)
    if form.is_valid():
        try:
            made = members.add_member(project, **form.cleaned_data, act=act_of(request))
        except ActForbidden as error:
            raise Http404 from error
        except ActRefused as error:
            form.show(error.refusal)
        else:
            messages.success(request, _("%(person)s is in the project now.") % {"person": made.user})
            return redirect("project-members", code=project.code)
    return _render(request, project, form, status=422)


@login_required
@require_POST
def change_role(request: HttpRequest, code: str, user_id: int) -> HttpResponse:
    """Make a member something else."""
    project = _get_project(request, code)
    form = RoleForm(request.POST)
    if not form.is_valid():
        messages.error(request, " ".join(str(error) for errors in form.errors.values() for error in errors))
        return redirect("project-members", code=project.code)
    try:
        changed = members.change_role(project, user_id=user_id, role=form.cleaned_data["role"], act=act_of(request))
    except (ActForbidden, Membership.DoesNotExist) as error:
        raise Http404 from error
    except ActRefused as error:
        messages.error(request, error.refusal.message)
    else:
        words = _("%(person)s is %(role)s of the project now.")
        messages.success(request, words % {"person": changed.user, "role": Role(changed.role).label})
    return redirect(*_after(request, project))


@login_required
@require_POST
def remove(request: HttpRequest, code: str, user_id: int) -> HttpResponse:
    """Take a member out."""
    project = _get_project(request, code)
    try:
        person = members.remove_member(project, user_id=user_id, act=act_of(request))
    except (ActForbidden, Membership.DoesNotExist) as error:
        raise Http404 from error
    except ActRefused as error:
        messages.error(request, error.refusal.message)
    else:
        messages.success(request, _("%(person)s is no longer in the project.") % {"person": person})
    return redirect(*_after(request, project))


def _after(request: HttpRequest, project: Project) -> tuple[str, str]:
    """Who has just given up their own right goes back to the project itself."""
    still = access.may_manage_members(request.user, project.pk)
    return ("project-members" if still else "project-detail", project.code)


def _get_project(request: HttpRequest, code: str) -> Project:
    project: Project = get_object_or_404(access.visible_projects(request.user), code=code)
    if not access.may_manage_members(request.user, project.pk):
        raise Http404
    return project


def _render(request: HttpRequest, project: Project, form: MemberForm, *, status: int = 200) -> HttpResponse:
    rows = project.memberships.select_related("user").order_by("user__username")
    people = sorted(rows, key=lambda row: row.role != Role.PI)
    context = {"project": project, "people": people, "form": form, "roles": RoleForm().fields["role"].choices}  # type: ignore[attr-defined]
    return render(request, "accounts/members.html", context, status=status)
