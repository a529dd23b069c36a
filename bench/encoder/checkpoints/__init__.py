"""Files of pretrained checkpoints: found, read, and checked against their own configuration.

A name, shape, number type or value that does not fit is a UserError of one line; no weight is silently left random.
"""
