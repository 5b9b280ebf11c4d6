"""Dask as the engine: processes on this machine by default, or whatever cluster an address names."""

from __future__ import annotations

import itertools
import logging
import os
import signal
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import dask.config
from distributed import Client, Future, LocalCluster, Security, as_completed
from distributed.comm.addressing import parse_address, parse_host_port
from distributed.comm.registry import get_backend
from distributed.gc import disable_gc_diagnosis

from mm_mlflow.errors import InvalidInput, TrackingError

# Replaces the nanny's own: its MALLOC_TRIM_THRESHOLD_ makes small nets train 1.3 times and evaluate
# 1.7 to 1.9 times slower (measured). These keep what a batch frees for the next one: returned to the
# system and taken again, it costs a page fault every 4 KiB (ResNet-8 on CIFAR: training 1.12 times,
# PGD 1.25 times slower, measured). One thread per worker is what makes equal cells equal in bits.
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
_ENVIRONMENT = {
    "MALLOC_MMAP_THRESHOLD_": str(2**28),
    "MALLOC_TRIM_THRESHOLD_": str(2**30),
}
_CONFIGURATION = {
    "distributed.nanny.pre-spawn-environ": _ENVIRONMENT,
    # No second task waits at a busy worker while another worker is idle (seen: 11 s at the end).
    "distributed.scheduler.worker-saturation": 1.0,
}
_CONNECT_SECONDS = 10


def default_jobs() -> int:
    """One worker for each processor that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def check(jobs: int | None, scheduler: str | None) -> None:
    """Refuse fewer than one job, ``jobs`` together with a cluster that has its own size, and an address
    at which no scheduler can be."""
    if jobs is not None and jobs < 1:
        raise InvalidInput(f"jobs {jobs} is not allowed: at least 1")
    if jobs is not None and scheduler is not None:
        raise InvalidInput(f"jobs {jobs} and scheduler {scheduler!r}: the cluster has its own size")
    if scheduler is not None:
        _check_address(scheduler)


def _check_address(scheduler: str) -> None:
    """Dask itself raises whatever it stumbles over, and only once the sweep has begun."""
    form = "HOST:PORT, tcp://HOST:PORT, or what else Dask knows"
    try:
        scheme, location = parse_address(scheduler)
        get_backend(scheme).get_address_host(location)
        if scheme != "inproc":
            parse_host_port(location)
        certificates = Security().get_connection_args("client")["ssl_context"]
    except (OSError, ValueError) as error:
        raise InvalidInput(f"scheduler {scheduler!r} is not allowed ({error}): {form}") from error
    if scheme in {"tls", "wss"} and certificates is None:
        raise InvalidInput(
            f"scheduler {scheduler!r} needs certificates: Dask's configuration names them, as "
            "distributed.comm.tls"
        )


@contextmanager
def workers(
    jobs: int | None, scheduler: str | None = None, preload: Sequence[str] = ()
) -> Iterator[Client]:
    """A client of ``jobs`` one-thread processes on loopback, or of the cluster at ``scheduler``.

    ``preload`` names modules that new workers import before they take work. Local workers end with
    the block, and soon after this process if it is killed.

    Raises:
        InvalidInput: as :func:`check`.
        TrackingError: no scheduler answers at that address.
    """
    check(jobs, scheduler)
    if scheduler is not None:
        try:
            client = Client(scheduler, timeout=_CONNECT_SECONDS)
        except (OSError, ValueError, OverflowError) as error:  # no machine has a port 99999
            raise TrackingError(f"scheduler {scheduler!r} does not answer: {error}") from error
        with client:
            _check_threads(client, scheduler)
            yield client
        return
    with (
        _one_thread(),
        tempfile.TemporaryDirectory(
            prefix="mm_mlflow-workers-", ignore_cleanup_errors=True
        ) as scratch,
        dask.config.set(_CONFIGURATION),
        LocalCluster(
            n_workers=jobs or default_jobs(),
            threads_per_worker=1,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",  # None would still take port 8787 (seen)
            memory_limit=0,  # mapped data sets count as memory, and a paused worker helps nobody
            local_directory=scratch,
            silence_logs=logging.CRITICAL,
            preload=["mm_mlflow.engine", *preload],
        ) as cluster,
        Client(cluster) as client,
    ):
        # Python ignores whatever is raised in a callback of its collector: Ctrl-C would be lost there
        # (seen). Dask's scheduler, which lives in this process, has such a one for its log.
        disable_gc_diagnosis(force=True)
        yield client


@contextmanager
def _one_thread() -> Iterator[None]:
    """Children inherit :data:`ONE_THREAD`. Of the variables that Dask itself hands to its workers, those
    that the user has set win (seen), and many a machine sets a number of threads."""
    before = {name: os.environ.get(name) for name in ONE_THREAD}
    os.environ.update(ONE_THREAD)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def dask_setup(_worker: object) -> None:
    """Called by Dask in each new local worker. Ctrl-C reaches the whole process group: the driver
    alone answers it, and closes its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _check_threads(client: Client, scheduler: str) -> None:
    """Trainings in threads of one process would share torch's random state: wrong, silently."""
    threads = max(client.nthreads().values(), default=0)
    if threads > 1:
        raise InvalidInput(
            f"scheduler {scheduler!r} has workers of {threads} threads: start them with --nthreads 1"
        )


def run(
    client: Client,
    function: Callable[[Any], Any],
    items: Sequence[tuple[str, Any]],
    *,
    hold_back: bool = True,
) -> Iterator[tuple[str, Any]]:
    """Apply ``function`` to the items on the workers; yields ``(key, result)`` as they end.

    The first items start first, and with ``hold_back`` an item is handed out only when a worker is
    free for it: Dask would give all of them away at once, and then a worker may wait for minutes
    while the other's tasks queue (seen: 15 of 73 worker-minutes lost). A cluster that grows with its
    backlog must see all of it, though. Where a task itself is lost (its workers died
    again and again), the exception stands in the place of its result.
    """
    waiting, ranks = iter(items), itertools.count()
    running: dict[Future[Any], str] = {}
    ended = as_completed()

    def hand_out() -> None:
        # At least one: with no worker at the moment, it waits for the next.
        free = max(1, sum(client.nthreads().values())) - len(running)
        ready = itertools.islice(waiting, max(0, free)) if hold_back else waiting
        for key, item in ready:
            rank = next(ranks)
            future = client.submit(function, item, key=key, pure=False, priority=-rank)
            running[future] = key
            ended.add(future)

    hand_out()
    for future in ended:
        key, error = running.pop(future), future.exception()
        result = error if error is not None else future.result()
        future.release()
        hand_out()  # before the caller takes its time over the result
        yield key, result
