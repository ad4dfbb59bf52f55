"""The process that compares expressions: `python -m promptcot_jax.verify.grading_worker`.

A request is a JSON object `{"reference", "candidate", "seconds"}` of normalised answers and the processor
time allowed for them; a reply is `true` or `false`. What cannot be compared, because it is no mathematics or
because its value would be larger than any answer, is false; running out of memory or of processor time ends
the process, which the parent takes for a time-out.

The limits are set here, so that they hold however the parent starts, and after it has died: RLIMIT_AS, no
file may be written, no core dumped, and a timer of processor time, whose signal ends the process.
"""

import json
import os
import resource
import signal

from promptcot_jax.verify import worker_pool

MEMORY_LIMIT = 512 * 2**20  # bytes of address space; a worker usually takes about 80 MB


def main() -> None:
    """Serves pairs until the parent is gone."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT, MEMORY_LIMIT))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    from promptcot_jax.verify import answer_equivalence, symbolic  # under the memory limit

    def answer(request: bytes) -> bytes:
        pair = json.loads(request)
        signal.setitimer(signal.ITIMER_PROF, pair["seconds"])
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


if __name__ == "__main__":
    main()
