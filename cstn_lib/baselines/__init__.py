"""The methods the paper compares with or argues against, one a module."""

from cstn_lib.baselines.plain import PlainLocalizer

__all__ = ["PlainLocalizer"]
