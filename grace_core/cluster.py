"""Encoding on a Ray cluster: actors, each with a model, encode the shards of a build on one machine or several.

Plain actors, not Ray Data: shards are sent longest first and a few at a time, so that the corpus need not be in
the object store and no straggler is left at the end; they come back as arrays, not as Arrow blocks; and one
process, which holds the folder's lock, writes each as it arrives. Workers need no shared disk, only this package
and the model under the same name.

A shard is encoded by one worker, in the same batches as on one machine, so the files are identical on the same
processors and thread counts, and else agree up to rounding. A worker that dies is restarted, and its shards are
sent again.
"""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import cached_property

from grace_core.build import Encode, Job
from grace_core.errors import GraceError, first_line
from grace_core.model import GraceModel, Representations

AHEAD = 2  # shards sent to a worker at once, so that it need not wait for this process
RESTARTS = 100  # of one worker; Ray does not count those after a machine was taken away
RETRIES = 3  # of one shard, in case it kills every worker


class Encoder:
    """A model in a worker's process, loaded when it is first used: Ray reports the cause of an error in a method,
    not of one in the constructor.
    """

    def __init__(self, name: str, options: dict, rationale: bool, batch_size: int):
        self.name, self.options, self.rationale, self.batch_size = name, options, rationale, batch_size

    @cached_property
    def model(self) -> GraceModel:
        return GraceModel.from_pretrained(self.name, **self.options)

    def identity(self) -> tuple[str, str]:
        """The hash of the weights and the precision, which must be the same on all machines."""
        return self.model.fingerprint, self.model.dtype

    def encode(self, texts: list[str]) -> Representations:
        return self.model.represent(texts, rationale=self.rationale, batch_size=self.batch_size)


def ray_encoder(
    model: GraceModel,
    *,
    workers: int = 2,
    engine: str = "transformers",
    rationale: bool = True,
    batch_size: int = 64,
    device: str | None = None,
    dtype: str | None = None,
) -> Encode:
    """An encoder for :func:`grace_core.index.build`: ``workers`` Ray actors that load ``model`` by its name.

    The cluster is that of ``RAY_ADDRESS``, else one is started on this machine for the build. Each worker
    takes a GPU if the cluster has any (unless ``device`` is cpu), else an equal share of the processors, and
    runs ``engine``. Raises GraceError if Ray is not installed, if a worker has other weights or
    another precision, or if workers keep dying.
    """
    if workers < 1:
        raise GraceError(f"workers is {workers}, expected at least 1")
    options = asdict(model.settings) | {"engine": engine, "device": device, "dtype": dtype}

    def encode(jobs: Iterator[Job], tick: Callable[[int], None]) -> Iterator[tuple[int, Representations]]:
        ray, started_here = _connected(workers)
        try:
            actor = ray.remote(Encoder).options(
                max_restarts=RESTARTS, max_task_retries=RETRIES, **_share(ray, workers, device)
            )
            actors = [actor.remote(model.source, options, rationale, batch_size) for _ in range(workers)]
            for identity in _get(ray, [worker.identity.remote() for worker in actors]):
                _check_identity(model, identity)
            yield from _spread(ray, actors, jobs)
        finally:
            if started_here:
                ray.shutdown()

    return encode


def _spread(ray, actors: list, jobs: Iterator[Job]) -> Iterator[tuple[int, Representations]]:
    """Sends each free worker the next shard, and yields shards as they finish."""
    free, running = deque(actors * AHEAD), {}
    while True:
        while free and (job := next(jobs, None)):
            actor = free.popleft()
            running[actor.encode.remote(job[1])] = job[0], actor
        if not running:
            return
        (ready,), _ = ray.wait(list(running), num_returns=1)
        number, actor = running.pop(ready)
        free.append(actor)
        yield number, _get(ray, ready)


def _connected(workers: int):
    """The connected ray module, and whether this call connected it."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ImportError as error:
        raise GraceError(
            "Ray is not installed; pip install 'grace-explorer[ray]', or build without --engine ray"
        ) from error
    if ray.is_initialized():
        return ray, False
    local: dict = (
        {}
        if os.environ.get("RAY_ADDRESS")
        else {
            "address": "local",
            "num_cpus": max(workers, os.cpu_count() or 1),
            "include_dashboard": False,
            "object_store_memory": 2**29,
        }
    )
    try:
        ray.init(logging_level=logging.WARNING, log_to_driver=False, **local)
    except (ConnectionError, RuntimeError, ValueError) as error:
        where = os.environ.get("RAY_ADDRESS") or "this machine"
        raise GraceError(
            f"Ray cannot be reached or started at {where} ({first_line(error)}); check RAY_ADDRESS"
        ) from error
    return ray, True


def _share(ray, workers: int, device: str | None) -> dict:
    """The resources of one worker.

    Raises GraceError if the cluster has too few for all workers, which would wait for ever.
    """
    resources = ray.cluster_resources()
    unit = "GPU" if resources.get("GPU") and device != "cpu" else "CPU"
    if resources.get(unit, 0) < workers:
        raise GraceError(
            f"{workers} workers want a {unit} each, the cluster has {resources.get(unit, 0):.0f}; lower --workers"
        )
    return {"num_gpus": 1, "num_cpus": 1} if unit == "GPU" else {"num_cpus": int(resources["CPU"]) // workers}


def _check_identity(model: GraceModel, identity: tuple[str, str]) -> None:
    fingerprint, dtype = identity
    if fingerprint != model.fingerprint:
        raise GraceError(f"a worker has other weights of {model.source} than are here; give all machines the same ones")
    if dtype != model.dtype:
        raise GraceError(
            f"a worker loads {model.source} in {dtype}, this machine in {model.dtype}; say which with --dtype"
        )


def _get(ray, reference):
    """The result of a worker. Raises GraceError if it failed or died."""
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, GraceError):
            raise GraceError(f"a worker failed: {error.cause}") from error
        raise GraceError(f"a worker failed: {first_line(error.cause)}; what is finished is kept") from error
    except ray.exceptions.RayError as error:
        raise GraceError(
            f"workers keep dying ({first_line(error)}); what is finished is kept: look for lack of memory, then build again"
        ) from error
