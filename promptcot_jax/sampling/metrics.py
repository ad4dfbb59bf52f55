"""What a rollout engine counts of itself."""

import collections
import dataclasses

import numpy as np


@dataclasses.dataclass
class Metrics:
    """Counts since the engine was made; times are in seconds of the host's clock."""

    requests: int = 0  # that ended
    prompt_tokens: int = 0
    shared_prompt_tokens: int = 0  # of those, found in the cache
    prefill_seconds: float = 0.0
    new_tokens: int = 0  # of requests that ended
    wasted_tokens: int = 0  # decoded past a stop text, or thrown away when a request had to start again
    steps: int = 0
    slot_steps: int = 0  # slots x steps
    busy_slot_steps: int = 0  # of those, with a row that was being decoded
    queued_slot_steps: int = 0  # slots x steps while requests were waiting
    queued_busy_slot_steps: int = 0
    decode_seconds: float = 0.0
    restarts: int = 0  # requests started again because the cache was full
    pages: int = 0
    most_pages_used: int = 0
    seconds_to_first_token: list[float] = dataclasses.field(default_factory=list)  # since its slot was given
    finish_reasons: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)

    def summary(self) -> dict[str, int | float | dict[str, int]]:
        """Counts, rates and shares, for logs and manifests."""
        waits = self.seconds_to_first_token
        return {
            "requests": self.requests,
            "prompt_tokens": self.prompt_tokens,
            "shared_prompt_tokens": self.shared_prompt_tokens,
            "new_tokens": self.new_tokens,
            "wasted_tokens": self.wasted_tokens,
            "prefill_seconds": self.prefill_seconds,
            "decode_seconds": self.decode_seconds,
            "prefill_tokens_per_second": _ratio(
                self.prompt_tokens - self.shared_prompt_tokens, self.prefill_seconds
            ),
            "decode_tokens_per_second": _ratio(self.busy_slot_steps, self.decode_seconds),
            "steps": self.steps,
            "slot_occupancy": _ratio(self.busy_slot_steps, self.slot_steps),
            "slot_occupancy_while_queued": _ratio(self.queued_busy_slot_steps, self.queued_slot_steps),
            "cache_use": _ratio(self.most_pages_used, self.pages),
            "restarts": self.restarts,
            "mean_seconds_to_first_token": float(np.mean(waits)) if waits else 0.0,
            "finish_reasons": dict(self.finish_reasons),
        }

    def figures(self) -> tuple[str, str]:
        """What a person who waits wants to see."""
        per_second = _ratio(self.busy_slot_steps, self.prefill_seconds + self.decode_seconds)
        busy = _ratio(self.busy_slot_steps, self.slot_steps)
        return f"{per_second:,.0f} tokens/s", f"{busy:.0%} of slots busy"

    def text(self) -> str:
        """One line for the log."""
        shown = {
            name: f"{value:.4g}" if isinstance(value, float) else value
            for name, value in self.summary().items()
        }
        return ", ".join(f"{name} {value}" for name, value in shown.items())

    def add_steps(self, num_slots: int, num_steps: int, num_busy: int, *, is_queued: bool) -> None:
        """Counts a burst.

        Args:
            num_busy: rows x steps in which a row was decoded.
            is_queued: whether requests were waiting.
        """
        self.steps += num_steps
        self.slot_steps += num_slots * num_steps
        self.busy_slot_steps += num_busy
        if is_queued:
            self.queued_slot_steps += num_slots * num_steps
            self.queued_busy_slot_steps += num_busy


def _ratio(part: int | float, whole: int | float) -> float:
    return part / whole if whole else 0.0
