"""Pre-trained weights as they lie in files: found, opened, and held against their own configuration.

Nothing here trusts a checkpoint: a name, shape, number type or value that does not fit ends in one line, never in
weights that a library has drawn in silence.
"""
