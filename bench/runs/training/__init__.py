"""The training budget, the cost of a training, and the detection of collapsed ones."""
