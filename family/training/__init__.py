"""Methods that change the cost or the course of training, or the depth of the trained model."""
