"""Argument types that several commands share."""

import argparse
import math
import re

from pydantic import ValidationError

from videogen_api.spec import Gpu

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


def gpus(text: str) -> tuple[str, ...]:
    """GPUs by number or UUID, as CUDA_VISIBLE_DEVICES has them. argparse turns the error into its usage message."""
    found = tuple(text.split(","))
    if len(set(found)) < len(found) or not all(
        re.fullmatch(r"[0-9]+|(GPU|MIG)-[0-9A-Za-z/-]+", each) for each in found
    ):
        raise argparse.ArgumentTypeError(f"{text!r} is no list of GPUs; want numbers like 0,1,2,3")
    return found


def quantity(text: str) -> str:
    """An amount of memory as Kubernetes writes it. argparse turns the error into its usage message."""
    try:
        return Gpu(memory=text).memory or ""
    except ValidationError:
        raise argparse.ArgumentTypeError(f"{text!r} is no amount of memory; want one such as 16Gi") from None


def share(text: str) -> float:
    """A share of all, below 1: 5%, or 0.05."""
    number = text.removesuffix("%")
    try:
        value = float(number) / (100 if number != text else 1)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no share of all; want one such as 5%")
    return value


def seconds(text: str) -> float:
    """A number of seconds, not below 0."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds")
    return value


def speed(text: str) -> tuple[str, float]:
    """A pool and how fast its cards are: t4=0.5."""
    pool, _, factor = text.partition("=")
    try:
        value = float(factor)
    except ValueError:
        value = 0.0
    if not pool or not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no speed; want one such as t4=0.5, for half of what is predicted"
        )
    return pool, value
