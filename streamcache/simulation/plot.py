"""Hit ratios over the size of the cache, as a PNG. Needs matplotlib (the extra ``plot``)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from streamcache.simulation.replay import Outcome

_VALUES: Final[dict[str, Callable[[Outcome], float]]] = {
    "bytes": lambda one: one.byte_hit_ratio,
    "requests": lambda one: one.hit_ratio,
}


def plot(outcomes: Sequence[Outcome], footprint: int, file: str) -> None:
    """Write the picture. ImportError: there is no matplotlib; OSError."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.5), layout="constrained")
    for place, (title, value) in enumerate(_VALUES.items(), 1):
        axes = figure.add_subplot(1, len(_VALUES), place)
        for policy in dict.fromkeys(one.policy for one in outcomes):
            points = sorted((one.size, value(one)) for one in outcomes if one.policy == policy)
            sizes = [size / 1e9 for size, _ in points]
            axes.plot(sizes, [100 * ratio for _, ratio in points], marker="o", label=policy)
        axes.axvline(footprint / 1e9, color="0.6", linestyle=":", label="all files")
        axes.set(title=f"Hit ratio of {title}", xlabel="size of the cache (GB)", ylabel="%")
        axes.set_xscale("log")
        axes.set_ylim(0, 102)
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(file, dpi=120, format="png")
