"""When an example may leave a model: exit rules, and how a trained model is operated. Imports no torch."""
