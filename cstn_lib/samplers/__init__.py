"""The ways to sample a map at moved points: PyTorch's own operations and compiled loops."""
