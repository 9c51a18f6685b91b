# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Restarts from the wish to the end: planned, refused, done now, or kept for the next safe window."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from .audit import Attempt
from .errors import FrozenError, LockTimeoutError, NHIError, PreflightError, StateError
from .freeze import frozen, refuse_if_frozen
from .graph import require_graph
from .guest_guards import how_to_apply
from .guest_restarter import GuestRestarter, Site
from .journal import abandoned
from .lock import FileLock, current_actor
from .restart_admission import RestartGate
from .restart_history import DIRECTORY, RestartHistory
from .restart_jobs import DONE, FAILED, RUNNING, Job, RestartJobs
from .restart_plan import RESTART, SCHEDULE, RestartPlan, RestartWish, Surroundings, plan_restart
from .restart_run import Origin, RestartRun, cut_off_restarts, dismiss, is_same_restart, origin_of
from .state import StateStore


@dataclass
class Outcome:
    """What was done, or would be."""

    changed: bool
    action: str
    plan: RestartPlan | None = None
    progress: dict[str, Any] = field(default_factory=dict)
    job: Job | None = None
    operation: str | None = None
    # What a dry run was given to apply it by, where a policy is in force.
    ticket: dict[str, Any] | None = None
    warnings: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """For programs."""
        told = {**self.plan.as_dict(), **(self.ticket or {})} if self.plan else {}
        return {
            "changed": self.changed, "action": self.action, "plan": told or None, "operation": self.operation,
            "how_to_apply": how_to_apply(self.ticket), "summary": self.summary(),
            "job": self.job.as_dict() if self.job else None, **self.progress,
        }  # fmt: skip

    def summary(self) -> list[str]:
        """For a person."""
        if self.action == "restarted":
            took = self.progress["downtime_seconds"]
            return [
                f"{name} was restarted and is well" + (f" after {took[name]:g} s" if took[name] is not None else "")
                for name in self.progress["restarted"]
            ]
        lines = self.plan.summary() if self.plan else []
        if self.action == "scheduled" and self.job:
            lines = [f"Scheduled as {self.job.label}, not before {self.job.not_before}.", *lines[1:]]
        return lines


class RestartStoppedError(NHIError):
    """A run stopped; ``progress`` tells how far it came."""

    def __init__(self, message: str, progress: dict[str, Any]) -> None:
        super().__init__(message)
        self.progress = progress


class Restarts:
    """Plans, does, schedules and lists restarts."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._gate = RestartGate(site.state_dir, site.connect, site.policy, site.plan_id)
        self.jobs = RestartJobs(site.state_dir)

    def plan(self, wish: RestartWish) -> RestartPlan:
        """What would be done now."""
        site = self._site
        if not wish.services:
            raise PreflightError("say which services are to be restarted")
        snapshot = StateStore(site.state_dir).read_or_none()
        if snapshot is None:
            raise StateError(
                f"There is no {site.state_dir}/state.json yet, so nobody knows what runs where: scan first"
            )
        known = Surroundings(
            require_graph(site.dependency_graph, str(site.state_dir)), snapshot.document, site.catalogue,
            RestartHistory(site.state_dir).estimates(wish.services), site.brain_vmid, site.guest_health_port,
        )  # fmt: skip
        return plan_restart(wish, known, site.now())

    def request(self, wish: RestartWish, *, check_mode: bool = False) -> Outcome:
        """Restart now, or schedule it where now is no good time; PreflightError with all that speaks against it."""
        plan = self.plan(wish)
        if check_mode:
            ticket, warnings = self._gate.foresee(plan)
            return Outcome(
                changed=True, action=f"would_{plan.action}", plan=plan, ticket=ticket, warnings=warnings
            )  # fmt: skip
        with self._audited("restart", wish, self._site.plan_id) as attempt:
            _refuse(plan)
            refuse_if_frozen(self._site.state_dir)
            if plan.action == SCHEDULE:
                return self._schedule(plan, attempt)
            with self._alone(self._site.lock_timeout):
                plan = self.plan(wish)  # somebody else may have been first
                _refuse(plan)
                outcome = self._run(plan, self._admit(plan), attempt)
                self._end_jobs(wish)
                return outcome

    def finish(self, operation: str) -> Outcome:
        """Take up a restart that was cut off, for whoever asked for it; PreflightError where there is none to take up.

        It was let through then, so it only has to be what was let through, at an hour that is safe for it.
        """
        origin = self._origin_of(operation)
        with self._audited("restart/finish", origin.wish, origin.admitted) as attempt:
            refuse_if_frozen(self._site.state_dir)
            with self._alone(self._site.lock_timeout):
                plan = self.plan(origin.wish)
                _refuse(plan)
                if plan.action == SCHEDULE:
                    raise PreflightError(f"now is outside its safe window ({plan.outlook}): finish it then")
                self._gate.readmit(plan, origin.admitted, origin.by)
                return self._run(plan, replace(origin, resumes=operation), attempt)

    def run_due(self, only: str | None = None) -> list[Job]:
        """Do every scheduled restart whose hour has come, or that one; returns what became of them."""
        if only is None:
            self.jobs.watch()
        ended: list[Job] = []
        now = self._site.now()
        if not any(job.is_due(now) for job in self.jobs.all()):
            return ended
        self._gate.check()
        try:
            with self._alone(0):
                while not self._is_frozen() and (job := self.jobs.claim(now, only)):
                    ended.append(self._do(job))
        except LockTimeoutError as e:
            self._site.tell(f"{e} Scheduled restarts wait for it.")
        return ended

    def _is_frozen(self) -> bool:
        if freeze := frozen(self._site.state_dir):
            self._site.tell(f"Scheduled restarts wait: {freeze}.")
        return freeze is not None

    def cancel(self, which: str) -> Outcome:
        """Take a scheduled restart back, or let go of one that was cut off."""
        with self._audited("restart/cancel", RestartWish((which,))) as attempt:
            attempt.allow()
            if dismiss(self._site.state_dir, which):
                return Outcome(changed=True, action="dismissed")
            try:
                with self._alone(0):  # nothing runs, whatever a job says that was cut off
                    job = self.jobs.cancel(which, running=True)
            except LockTimeoutError:
                job = self.jobs.cancel(which)
            attempt.note(job=job.label)
            return Outcome(changed=True, action="cancelled", job=job)

    def listing(self) -> dict[str, Any]:
        """What waits, ran lately, or was cut off."""
        return {
            "jobs": [job.as_dict() for job in self.jobs.all()],
            "cut_off": list(cut_off_restarts(self._site.state_dir)),
            "watched": self.jobs.is_watched(),
        }

    def _schedule(self, plan: RestartPlan, attempt: Attempt) -> Outcome:
        window = plan.outlook.window
        if window is None:
            raise PreflightError("there is no safe window")

        def admit() -> str | None:
            admitted = self._gate.admit(plan)
            attempt.plan = admitted
            attempt.allow()
            return admitted

        job, changed = self.jobs.schedule(plan.wish, window.start, window.end, current_actor(), admit)
        attempt.note(changed=changed, action="scheduled", job=job.label, not_before=job.not_before)
        if not self.jobs.is_watched():
            self._site.tell(
                "Nobody has looked for scheduled restarts here in the last ten minutes: install the timer with"
                " playbooks/restart_timer.yml, or have 'nhi restarts run' called every minute."
            )
        return Outcome(changed, "scheduled", plan, job=job)

    def _do(self, job: Job) -> Job:
        """One job that is due, planned anew: much may have changed since it was scheduled."""
        try:
            with self._audited("restart/due", job.wish, job.admitted, job.by) as attempt:
                plan = self.plan(job.wish)
                _refuse(plan)
                window = plan.outlook.window
                if plan.action != RESTART and window is not None:
                    attempt.note(action="put off", job=job.label)
                    return self.jobs.put_off(job, window.start, window.end, "its window was missed")
                self._gate.readmit(plan, job.admitted, job.by)
                outcome = self._run(plan, Origin(job.wish, job.by, job.admitted, job.id), attempt)
        except FrozenError as e:
            end = datetime.fromisoformat(job.not_after) if job.not_after else None
            return self.jobs.put_off(job, datetime.fromisoformat(job.not_before), end, str(e))
        except NHIError as e:
            return self.jobs.end(job, FAILED, str(e))
        return self.jobs.end(job, DONE, "; ".join(outcome.summary()))

    def _end_jobs(self, wish: RestartWish) -> None:
        """A job that was cut off is done with the restart that just ended. Only for who holds the lock of restarts."""
        for job in self.jobs.all():
            if job.status == RUNNING and set(job.services) <= set(wish.services):
                self.jobs.end(job, DONE, "done by another restart of the same")

    def _admit(self, plan: RestartPlan) -> Origin:
        """Through the gate, but only once where the actor's own restart of the same was cut off after it."""
        actor = current_actor()
        for journal in abandoned(self._site.state_dir / DIRECTORY):
            cut = origin_of(journal)
            if cut is None or not is_same_restart(journal, (step.service for step in plan.steps)):
                continue
            if cut.by == actor and cut.admitted and self._site.plan_id in (None, cut.admitted):
                self._gate.readmit(plan, cut.admitted, actor)
                return replace(cut, wish=plan.wish)
        return Origin(plan.wish, actor, self._gate.admit(plan))

    def _origin_of(self, operation: str) -> Origin:
        for journal in abandoned(self._site.state_dir / DIRECTORY):
            if journal.operation == operation:
                if origin := origin_of(journal):
                    return origin
                raise PreflightError(f"{journal.title} does not tell all that was asked for: ask for the same again")
        raise PreflightError(f"there is no restart {operation} that was cut off: 'nhi recover' shows what is open")

    @contextmanager
    def _audited(
        self, operation: str, wish: RestartWish, plan: str | None = None, actor: str | None = None
    ) -> Iterator[Attempt]:
        attempt = Attempt(
            self._site.state_dir, operation, ", ".join(sorted(wish.services)), wish.as_dict(), plan=plan, actor=actor
        )
        try:
            with attempt:
                yield attempt
        finally:
            for warning in attempt.warnings:
                self._site.tell(warning)

    def _run(self, plan: RestartPlan, origin: Origin, attempt: Attempt) -> Outcome:
        site = self._site
        attempt.plan = origin.admitted
        attempt.allow()
        run = RestartRun(plan, site.state_dir, GuestRestarter(site), site.health_timeout, site.tell, origin)
        try:
            progress = run.run().as_dict()
        except NHIError as e:
            raise RestartStoppedError(str(e), run.progress.as_dict()) from e
        finally:
            attempt.note(action="restarted", operation=run.operation, **run.progress.as_dict())
            touched = {*run.progress.restarted, run.progress.failed}
            self._scan([step.guest for step in plan.steps if step.service in touched])
        return Outcome(changed=True, action="restarted", plan=plan, progress=progress, operation=run.operation)

    def _scan(self, guests: list[str]) -> None:
        try:
            if guests:
                self._site.rescan(sorted(set(guests)))
        except NHIError as e:
            self._site.tell(f"state.json may not show what this run did, so scan again: {e}")

    def _alone(self, timeout: float) -> FileLock:
        directory = self._site.state_dir / DIRECTORY
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as e:
            raise StateError(f"{directory} can not be made: correct state_dir or its owner") from e
        return FileLock(directory / "run.lock", "restart services", timeout=timeout)


def _refuse(plan: RestartPlan) -> None:
    if plan.failed:
        raise PreflightError("; ".join(check.message for check in plan.failed))
