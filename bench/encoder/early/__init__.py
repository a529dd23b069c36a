"""Early-exit inference: the deployed form of a model, the engine that removes exited examples, and a classifier."""
