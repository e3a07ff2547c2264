"""How fast the runners of each pool are, as far as anybody has measured."""

from collections.abc import Iterable

from videogen_runner.claims import Sighting


class Paces:
    """Measured paces, and a guess for those who have measured none yet: what others of their pool have."""

    def __init__(self, sightings: Iterable[Sighting], pool: str, pace: float | None) -> None:
        known: dict[str, list[float]] = {pool: [] if pace is None else [pace]}
        for seen in sightings:
            if seen.claim is not None and seen.claim.pace is not None:
                known.setdefault(seen.claim.pool, []).append(seen.claim.pace)
        self._mean = {name: sum(paces) / len(paces) for name, paces in known.items() if paces}

    def of(self, pool: str, pace: float | None) -> float:
        return pace if pace is not None else self._mean.get(pool, 1.0)
