"""Train runs in several processes of one machine: their order, the processes, the shared GPU, and packed results."""
