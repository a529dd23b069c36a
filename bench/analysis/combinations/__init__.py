"""Models under other exit policies than their own, and cascades of two contestants, replayed from traces."""
