"""What leaves the folder it was made in: results for others to compare with, a model to be used."""
