"""The nofilter filter: change nothing, to see what a filter itself costs or breaks."""

from nbdfork.plugin import Filter, Needs


class NoFilter(Filter):
    """change nothing"""

    def needs(self) -> Needs:
        return Needs()
