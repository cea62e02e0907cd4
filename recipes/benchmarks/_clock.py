"""Time and memory of a single call, on a CPU or a GPU, for `recipes.benchmark adaptive_conv`."""

from __future__ import annotations

from collections.abc import Callable


class Stopwatch:
    """Milliseconds of a call, on the clock of the benchmark."""

    def __init__(self, device: str):
        import torch

        self.device = device
        self.flush = torch.empty(2**26, dtype=torch.int32, device=device) if device == "cuda" else None

    def __call__(self, call: Callable[[], object]) -> tuple[float, object]:
        import time

        import torch

        if self.flush is None:
            clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
            start = clock()
            result = call()
            return (clock() - start) * 1e3, result
        self.flush.zero_()
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        result = call()
        end.record()
        torch.cuda.synchronize()
        return start.elapsed_time(end), result


def peak_bytes(call: Callable[[], object], device: str) -> int:
    """Most bytes that were allocated at once during the call, above what was there before."""
    import torch

    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        kept = call()  # noqa: F841 (its memory counts)
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(profile_memory=True, activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        kept = call()  # noqa: F841
    allocations = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = peak = 0
    for event in sorted(allocations, key=lambda e: e.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak
