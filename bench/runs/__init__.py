"""The runs of a benchmark: plan, training, replay, latency, and the merge of their results."""
