"""The embedded data sets: birds that are drawn, with boxes known exactly."""
