"""From what a network says to the predictions table, and from that to the paper's metrics."""
