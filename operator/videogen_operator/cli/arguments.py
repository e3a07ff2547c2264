"""Argument types that several commands share."""

import argparse
import re

_MAX_PORT = 65535


def positive(text: str) -> int:
    """A number of at least 1. argparse turns the error into its usage message."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no positive number")
    return int(text)


def port(text: str) -> int:
    """A TCP port, or 0 for any free one. argparse turns the error into its usage message."""
    if not text.isdecimal() or int(text) > _MAX_PORT:
        raise argparse.ArgumentTypeError(f"{text!r} is no port; want 0 to {_MAX_PORT}")
    return int(text)


def device(text: str) -> str:
    """A device by its PyTorch name. argparse turns the error into its usage message."""
    if not re.fullmatch(r"cpu|cuda(:[0-9]+)?", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no device; want cpu, cuda or cuda:N")
    return text
