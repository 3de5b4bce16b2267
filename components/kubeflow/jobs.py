"""Run a TrainJob or JobSet to its end: create or adopt it, show rank 0's log, fail as it fails, delete it."""

import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from os import environ
from typing import Any

from components.kubeflow.cluster import Cluster, CutError, Kind, MissingError, here
from components.kubeflow.manifests import NODE, RUN_LABEL, JobRequest, job_name, manifest
from mcm.errors import UserError

KINDS = {
    "TrainJob": Kind("trainer.kubeflow.org", "v1alpha1", "trainjobs", "TrainJob", "Kubeflow Trainer 2.3"),
    "JobSet": Kind("jobset.x-k8s.io", "v1alpha2", "jobsets", "JobSet", "the JobSet controller"),
}
ENDED = {"Complete": True, "Completed": True, "Failed": False}  # conditions of both kinds: did it end well
PATIENCE = 900.0  # seconds for an earlier job to go: its pods have their grace period
DRAIN = 30.0  # seconds for the end of the log to arrive when the job has ended


class _StoppedError(Exception):
    """SIGTERM: the run was cancelled or the node goes."""


def run_on_cluster(request: JobRequest, program: str, arguments: list[str], key: str) -> None:
    """Run a stage's program as a job and wait for it. UserError with the job's reason where it fails.

    The job's name is a function of `key`, so a task that is tried again finds the job of its first try: it adopts one
    that runs, takes the result of one that is complete, and replaces one that failed. On SIGTERM the job is deleted.
    """
    cluster = Cluster()
    name = job_name(program, key, request)
    job = None
    with _stopping():
        try:
            place = here(cluster)
            body = manifest(request, program, arguments, name, place, environ)
            job = Job(cluster, KINDS[request.launcher], name, body)
            job.start()
            job.watch()
        except (_StoppedError, KeyboardInterrupt) as error:
            if job:
                job.delete()
                print(f"{job}: stopped and deleted; a new try goes on from the newest checkpoint", file=sys.stderr)
            if isinstance(error, KeyboardInterrupt):
                raise
            sys.exit(128 + signal.SIGTERM)
    job.delete()


class Job:
    """One job on the cluster."""

    def __init__(self, cluster: Cluster, kind: Kind, name: str, body: Mapping[str, Any]):
        self.cluster = cluster
        self.kind = kind
        self.name = name
        self.body = body
        self.namespace: str = body["metadata"]["namespace"]
        self.said: set[tuple[str, str]] = set()

    def __str__(self) -> str:
        return f"{self.kind.name} {self.name}"

    def start(self) -> None:
        """Create the job, or adopt the one of this name that is there and has not failed."""
        end = time.monotonic() + PATIENCE
        while True:
            found = self.get()
            if found is None:
                if self.cluster.create(self.kind, self.namespace, self.body):
                    print(f"{self}: created in namespace {self.namespace}", flush=True)
                    return
            elif found["metadata"].get("deletionTimestamp"):
                if time.monotonic() > end:
                    raise UserError(
                        f"{self}: still being deleted after {PATIENCE:.0f} s; see what holds its finalizers"
                    )
                self._say("deleting", "an earlier one is being deleted; waiting for that")
                self._wait_until_gone(found)
            elif _ended(found) is False:
                self._say("replaced", f"an earlier try failed ({_reason(found)}); deleting it to start anew")
                self.delete()
            else:
                print(f"{self}: there already, from an earlier try; adopting it", flush=True)
                mine = {key: self.body["metadata"][key] for key in ("ownerReferences",) if key in self.body["metadata"]}
                labels = {RUN_LABEL: self.body["metadata"]["labels"].get(RUN_LABEL)}
                self.cluster.patch(self.kind, self.namespace, self.name, {"metadata": {"labels": labels, **mine}})
                return

    def watch(self) -> None:
        """Wait for the end, showing the log of rank 0. UserError where the job fails or vanishes."""
        log = _Log(self)
        log.start()
        try:
            found = self._wait_until_ended()
        except BaseException:
            log.leave()
            raise
        log.finish()
        if not _ended(found):
            raise UserError(
                f"{self}: failed, {_reason(found)}{self._first_failure()}; its log is above, and a new try goes on "
                "from the newest checkpoint"
            )

    def get(self) -> dict[str, Any] | None:
        """The job as the cluster has it, None where it is not there."""
        try:
            return self.cluster.get(self.kind, self.namespace, self.name)
        except MissingError:
            return None

    def delete(self) -> None:
        """Delete the job with all that it made; no error where it is gone."""
        self.cluster.delete(self.kind, self.namespace, self.name)

    def pods(self, index: int | None = None) -> list[dict[str, Any]]:
        """The job's pods, oldest first; those of one node where `index` says so."""
        labels = {"jobset.sigs.k8s.io/jobset-name": self.name, "jobset.sigs.k8s.io/replicatedjob-name": NODE}
        if index is not None:
            labels["batch.kubernetes.io/job-completion-index"] = str(index)
        found = self.cluster.pods(self.namespace, ",".join(f"{key}={value}" for key, value in labels.items()))
        return sorted(found, key=lambda pod: pod["metadata"].get("creationTimestamp") or "")

    def _wait_until_ended(self) -> dict[str, Any]:
        while True:
            found = self.get()
            if found is None:
                raise UserError(f"{self}: deleted while it ran; submit again to go on from the newest checkpoint")
            if _ended(found) is not None:
                return found
            for event in self.cluster.events(self.kind, self.namespace, self.name, found):
                if event["type"] == "DELETED":
                    break
                for condition in _conditions(event["object"]):
                    self._say(str(condition["type"]), f"{condition['type']}, {condition.get('message', '')}")
                if _ended(event["object"]) is not None:
                    return event["object"]

    def _wait_until_gone(self, found: dict[str, Any]) -> None:
        for event in self.cluster.events(self.kind, self.namespace, self.name, found):
            if event["type"] == "DELETED":
                return

    def _say(self, subject: str, text: str) -> None:
        """Each thing once."""
        if (subject, text) not in self.said:
            self.said.add((subject, text))
            print(f"{self}: {text}", flush=True)

    def _first_failure(self) -> str:
        """Which node failed first, and of what, as far as its pod is still there to tell."""
        ends = []
        for pod in self.pods():
            for status in pod.get("status", {}).get("containerStatuses") or []:
                end = (status.get("state") or {}).get("terminated") or {}
                if end.get("exitCode"):
                    node = pod["metadata"]["labels"].get("batch.kubernetes.io/job-completion-index", "?")
                    what = f"node {node}: {end.get('reason', 'Error')}, exit status {end['exitCode']}"
                    ends.append((end.get("finishedAt") or "", what))
        return f" ({min(ends)[1]})" if ends else ""


class _Log(threading.Thread):
    """Prints what rank 0 writes, from its first line on and each line once, whatever happens to the connection."""

    def __init__(self, job: Job):
        super().__init__(name="log", daemon=True)
        self.job = job
        self.ended = threading.Event()
        self.left = threading.Event()

    def finish(self) -> None:
        """The job has ended: wait until the rest of the log is here."""
        self.ended.set()
        self.join(DRAIN)
        self.left.set()

    def leave(self) -> None:
        """Show no more."""
        self.ended.set()
        self.left.set()

    def run(self) -> None:
        shown: set[str] = set()
        try:
            while not self.left.is_set():
                pods = [pod for pod in self.job.pods(0) if pod["metadata"]["uid"] not in shown]
                if pods and pods[-1]["status"]["phase"] != "Pending":
                    self._show(pods[-1])
                    shown.add(pods[-1]["metadata"]["uid"])
                elif self.ended.is_set():
                    return
                else:
                    self.ended.wait(self.job.cluster.pause)
        except UserError as error:
            print(f"{self.job}: its log cannot be shown: {error}", file=sys.stderr, flush=True)

    def _show(self, pod: dict[str, Any]) -> None:
        """The log of one pod to its end, taken up again where the connection broke."""
        name, last = pod["metadata"]["name"], ""
        at_last: set[str] = set()
        while not self.left.is_set():
            found = {pod["metadata"]["name"]: pod for pod in self.job.pods(0)}.get(name)
            if found is None:
                return
            ended = found["status"]["phase"] in ("Succeeded", "Failed")
            try:
                for line in self.job.cluster.log(self.job.namespace, name, NODE, since=last):
                    stamp, _, text = line.partition(" ")
                    if stamp < last or line in at_last:
                        continue
                    at_last = at_last | {line} if stamp == last else {line}
                    last = stamp
                    if self.left.is_set():
                        return
                    print(text, flush=True)
                if ended:  # before this reading began, so it was the whole rest
                    return
            except CutError:
                pass
            time.sleep(self.job.cluster.pause)


@contextmanager
def _stopping() -> Iterator[None]:
    """SIGTERM raises `_StoppedError` in the main thread, out of whatever it waits for."""

    def stop(number: int, frame: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once: deleting is not to be interrupted
        raise _StoppedError

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _conditions(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    listed = (found.get("status") or {}).get("conditions") or []
    return [condition for condition in listed if condition.get("status") == "True"]


def _ended(found: Mapping[str, Any]) -> bool | None:
    """True where the job is complete, False where it failed, None where it has not ended."""
    for condition in _conditions(found):
        if condition["type"] in ENDED:
            return ENDED[condition["type"]]
    return None


def _reason(found: Mapping[str, Any]) -> str:
    for condition in _conditions(found):
        if ENDED.get(condition["type"]) is False:
            return " ".join(f"{condition.get('reason', 'Failed')}: {condition.get('message', '')}".split())
    return "no reason given"
