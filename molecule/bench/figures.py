"""What the programs that write docs/benchmarks.md have in common: prose, and tables of figures and promises."""

import statistics
import textwrap


def prose(text):
    """Text in lines of at most 100 columns."""
    return textwrap.fill(" ".join(text.split()), 100, break_long_words=False, break_on_hyphens=False)


def of(part, whole):
    """The ratio of two figures in each round. Both are of the same round, because the speed of the machine changes."""
    return [a / b for a, b in zip(part, whole, strict=True)]


def promises():
    """Prints the head of a table of promises."""
    print("\n| promise, round by round | median | lowest to highest | at most | kept |")
    print("|---|---|---|---|---|")


def promise(what, measured, promised):
    """Prints a row of that table: the promise is kept if the median is not larger than what is promised."""
    middle = statistics.median(measured)
    verdict = "yes" if middle <= promised else "**no**"
    print(f"| {what} | {middle:.2f} | {min(measured):.2f} to {max(measured):.2f} | {promised} | {verdict} |")
