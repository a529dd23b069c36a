"""What all contestants of the benchmark share. Importing it makes saved models loadable by transformers' Auto classes."""
