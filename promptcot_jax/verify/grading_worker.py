"""The process that compares expressions: `python -m promptcot_jax.verify.grading_worker`.

A request is a JSON object `{"reference", "candidate", "seconds"}` of normalised answers and the processor
time allowed for them; a reply is `true` or `false`. What cannot be compared, because it is no mathematics or
because its value would be larger than any answer, is false; running out of memory ends the process, which the
parent takes for a time-out.

The limits are set here, so that they hold however the parent starts: RLIMIT_AS, no file may be written, no
core dumped, and RLIMIT_CPU ends a computation whose parent died.
"""

import json
import os
import resource

from promptcot_jax.verify import worker_pool

MEMORY_LIMIT = 512 * 2**20  # bytes of address space; a worker usually takes about 80 MB


def main() -> None:
    """Serves pairs until the parent is gone."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT, MEMORY_LIMIT))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    from promptcot_jax.verify import answer_equivalence, symbolic  # under the memory limit

    def answer(request: bytes) -> bytes:
        pair = json.loads(request)
        _limit_cpu(pair["seconds"])
        try:
            is_match = answer_equivalence.equivalent(
                pair["reference"], pair["candidate"], symbolic.same_expression
            )
        except answer_equivalence.TooMany:
            is_match = False
        except MemoryError:
            os._exit(1)
        return b"true" if is_match else b"false"

    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    worker_pool.serve(answer)


def _limit_cpu(seconds: float) -> None:
    """Lets the process use this much more processor time before SIGXCPU ends it."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    soft = int(used.ru_utime + used.ru_stime + seconds) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (soft, resource.getrlimit(resource.RLIMIT_CPU)[1]))


if __name__ == "__main__":
    main()
