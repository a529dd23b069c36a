"""Results and data in the formats of other tools: Every Eval Ever, model-index, RO-Crate, Croissant."""
