"""The data sets that are read: photographs, their classes and boxes."""
