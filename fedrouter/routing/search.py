"""The constants of task discovery; docs/routing.md has the measurements."""

from dataclasses import dataclass


@dataclass(frozen=True)
class TaskSearch:
    """Constants of task discovery (beyond the paper).

    Attributes:
        refinements: exchanges of profiles before round 1 in which centroids and the whitening
            transform are estimated, if the numbers of tasks are given. The first two bring most of
            the gain.

        min_clusters, max_clusters: bounds on the number of local tasks that a client starts with,
            if `n_local` is "auto".
        samples_per_cluster: training samples per local task at the start, within these bounds.
        max_initial_tasks: largest number of global tasks at the start. It should exceed the number
            of true tasks, since tasks can be merged but not split.
        min_initial_samples: samples of a task that a client needs to hold it before the tasks of
            the first two rounds are settled.

        neighbors: the nearest tasks that each task is compared with.
        comparison_samples: samples of a local task on which adapters are compared.
        compared_clients: clients that are asked about a task; the median of three outvotes one.
        merge_threshold: relative regret (`comparing.relative_regret`) up to which another
            task's adapter counts as interchangeable with the task's own.
        memorizable: a task with fewer samples can be overfitted, so that its adapter serves no
            other task even where the task is not one of its own.
        settled_round: after this round, tasks are compared again only if some were created or
            merged since.

        reassign_rounds: the last round after which samples are reassigned by loss.
        reassign_samples: samples of a client that are reassigned by loss.
        reassign_candidates: the nearest tasks whose adapters are tried on each of them.

        min_new_samples: samples of a cluster that can become a new task.
        max_new_tasks: new tasks that a client can have to itself.
    """

    refinements: int = 4

    min_clusters: int = 3
    max_clusters: int = 8
    samples_per_cluster: int = 16
    max_initial_tasks: int = 16
    min_initial_samples: int = 8

    neighbors: int = 3
    comparison_samples: int = 32
    compared_clients: int = 3
    merge_threshold: float = 0.25
    memorizable: int = 100
    settled_round: int = 4

    reassign_rounds: int = 2
    reassign_samples: int = 128
    reassign_candidates: int = 3

    min_new_samples: int = 8
    max_new_tasks: int = 4


SEARCH = TaskSearch()
