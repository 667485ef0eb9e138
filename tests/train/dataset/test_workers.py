from __future__ import annotations

from threadpoolctl import threadpool_info

from tomoscribe.train.dataset.workers import Advance, Workers


def blas_threads(unit: int, advance: Advance) -> list[int]:
    advance(1)
    return [library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"]


def test_the_libraries_of_a_process_do_not_start_threads_of_their_own():
    told: list[tuple[int, int]] = []
    with Workers(2) as workers:
        results = dict(workers.run(blas_threads, [10, 11], lambda number, count: told.append((number, count))))
    assert sorted(results) == [0, 1]
    for threads in results.values():
        assert threads
        assert set(threads) == {1}
    assert sorted(told) == [(0, 1), (1, 1)]
