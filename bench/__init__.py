"""Code that all contestants of the benchmark share. `bench.encoder` makes saved models loadable by Auto classes."""
