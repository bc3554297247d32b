"""What holds for the source tree itself: its layers, manual, package and contrib."""
