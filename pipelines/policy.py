"""Per stage: is its result cached, how often is it tried again, and for how long may it run. Each with its reason."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kfp.dsl import PipelineTask

MINUTE, HOUR, DAY = 60, 60 * 60, 24 * 60 * 60


@dataclass(frozen=True)
class Policy:
    """What Kubeflow does with a task. Seconds: `backoff` before each retry, `timeout` for one attempt."""

    cache: bool
    cache_reason: str
    retries: int
    backoff: int
    retry_reason: str
    timeout: int
    timeout_reason: str

    @property
    def window(self) -> int:
        """Seconds from the first attempt's start in which all attempts and waits fit."""
        return (self.retries + 1) * self.timeout + self.retries * self.backoff


FUNCTION = (
    "the result is a function of the key: parameters, image, and inputs that are named by their hash; an input that "
    "was deleted behind a hit is found out by the task that reads it"
)
PREEMPTED = (
    "spot nodes go: a retry finds the newest whole checkpoint under the hash of configuration and inputs and goes on "
    "there; ten, because a long run meets several, and two minutes apart, about what a new node takes"
)
AGAIN = "a node or the store can fail; the stage starts anew, which costs less than keeping its state would"
MODELS = (
    "days, for the paper's runs on one accelerator; what is lost when it ends is the time since the last checkpoint"
)

_TRAINING = Policy(True, FUNCTION, 10, 2 * MINUTE, PREEMPTED, 3 * DAY, MODELS)
_MEASURING = Policy(
    True, FUNCTION, 4, 2 * MINUTE, AGAIN, 12 * HOUR, "50 000 samples of a slow sampler take hours on one accelerator"
)

POLICIES: dict[str, Policy] = {
    "plan": Policy(
        False,
        "it records what this run was asked for; it takes seconds, and what follows is keyed by what it returns",
        2,
        30,
        "only the cluster can fail it; bad parameters fail again at once",
        15 * MINUTE,
        "seconds",
    ),
    "prepare_data": Policy(True, FUNCTION, 4, MINUTE, AGAIN, 12 * HOUR, "a million images are read and scaled once"),
    "train_teacher": _TRAINING,
    "estimate_variance": _MEASURING,
    "train_student": _TRAINING,
    "evaluate": _MEASURING,
    "report": Policy(
        False,
        "it shows measured durations and this run, which no key holds; it takes a minute",
        4,
        MINUTE,
        AGAIN,
        HOUR,
        "minutes, and downloads of every evaluation",
    ),
    "conclude": Policy(
        False,
        "it says how this run ended, and another run ends otherwise",
        4,
        30,
        "without it nobody hears how the run ended",
        15 * MINUTE,
        "seconds",
    ),
}


def apply_policy(task: "PipelineTask", stage: str) -> None:
    """Set caching, retries and time limit of a stage on its task.

    Retries: Argo counts `backoff_max_duration` from the start of the first attempt, ends a running attempt with it, and
    starts none after it (kubeflow/pipelines#14245); kfp's default is one hour. So it is the whole window. The wait does
    not grow: Argo doubles without a cap, and takes whole factors only. kfp 2.17 cannot set Argo's `retryPolicy`: it
    stays OnFailure, so a pod that ends is tried again, and one that vanishes with its node can count as an Error and
    is not; then `mcm pipeline resume` goes on from the same checkpoints.
    """
    from kfp import kubernetes

    policy = POLICIES[stage]
    task.set_caching_options(policy.cache)
    task.set_retry(policy.retries, f"{policy.backoff}s", 1.0, f"{policy.window}s")
    kubernetes.set_timeout(task, policy.timeout)
