"""Early exit for real: a model's deployed form, the engine that lets rows leave, a classifier that uses both."""
