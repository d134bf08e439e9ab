"""The tables of docs/benchmarks.md: how a figure is held against what is promised of it."""

import statistics


def of(part, whole):
    """What one figure is of another, round by round: the machine is not always as fast."""
    return [a / b for a, b in zip(part, whole, strict=True)]


def promises():
    print("\n| promise, round by round | median | lowest to highest | at most | kept |")
    print("|---|---|---|---|---|")


def promise(what, measured, promised):
    """A row of that table."""
    middle = statistics.median(measured)
    verdict = "yes" if middle <= promised else "**no**"
    print(f"| {what} | {middle:.2f} | {min(measured):.2f} to {max(measured):.2f} | {promised} | {verdict} |")
