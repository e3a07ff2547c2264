"""Argument types that several commands share."""

import argparse


def positive(text: str) -> int:
    """A number of at least 1. argparse turns the error into its usage message."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no positive number")
    return int(text)
