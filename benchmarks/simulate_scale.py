"""How runs scale beyond one machine, played by the simulator of `videogen plan --simulate`: no GPU, no cluster.

    python benchmarks/simulate_scale.py

Four kinds of cards (50 % T4, 30 % L4, 15 % A100, 5 % H100), ten clips a runner, 480p, 51 frames; a minute from creating
a pod to its first operation. *Least* is what no order of clips could beat, with the starts of the four stages; *fixed
shares* is what runners take that cannot claim, each its share by predicted speed. Prints the table of
docs/benchmarks/simulator.md.
"""

from time import process_time

from videogen_api.balancing import OpenClip, Worker, share_out
from videogen_api.plan import Plan
from videogen_api.resource import VideoGeneration, parse_resource
from videogen_operator.cli.tables import format_seconds, render_table
from videogen_operator.core.defaults import Defaults
from videogen_operator.core.fleet import Scenario
from videogen_operator.core.planner import make_plan
from videogen_operator.core.play import play
from videogen_operator.core.totals import least_seconds

START_SECONDS = 60.0
CLIPS_PER_RUNNER = 10
CARDS = (("t4", "Tesla-T4", 0.5), ("l4", "NVIDIA-L4", 0.3), ("a100", "NVIDIA-A100-SXM4-80GB", 0.15))
LAST_CARD = ("h100", "NVIDIA-H100-80GB-HBM3")
SCENARIOS = (
    ("as predicted", 0.0, {}),
    ("5 % of pods lost an hour", 0.05, {}),
    ("20 % of pods lost an hour", 0.2, {}),
    ("5 % lost, T4 half as fast", 0.05, {"t4": 0.5}),
)


def build_resource(runners: int) -> VideoGeneration:
    """A resource of that many runners, and ten clips for each."""
    counts = [(name, product, round(share * runners)) for name, product, share in CARDS]
    counts.append((*LAST_CARD, runners - sum(count for _, _, count in counts)))
    clips = runners * CLIPS_PER_RUNNER
    prompts = min(1000, clips)
    return parse_resource(
        {
            "apiVersion": "videogen.dev/v1alpha1",
            "kind": "VideoGeneration",
            "metadata": {"name": f"scale-{runners}"},
            "spec": {
                "prompts": [
                    {"text": f"A red fox runs through fresh snow, take {n}", "samples": clips // prompts}
                    for n in range(prompts)
                ],
                "video": {"resolution": "480p", "aspectRatio": "16:9", "frames": 51},
                "model": {"weights": "s3://models/open-sora-v1.2/"},
                "storage": {"url": "s3://videos/"},
                "runners": [
                    {"name": name, "replicas": count, "gpu": {"product": product}} for name, product, count in counts
                ],
            },
        }
    )


def fixed_shares_seconds(plan: Plan, speeds: dict[str, float]) -> float:
    """How long denoising takes without claims, if no pod is lost: the slowest runner's share."""
    seconds = {pool.name: pool.cost.seconds for pool in plan.pools}
    workers = [Worker(pool.name) for pool in plan.pools for _ in range(pool.replicas)]
    shares = share_out([OpenClip(str(clip.index), seconds) for clip in plan.work], workers)
    return max(
        len(share) * seconds[worker.pool] / speeds.get(worker.pool, 1.0)
        for share, worker in zip(shares, workers, strict=True)
    )


def measure(runners: int, label: str, losses: float, speeds: dict[str, float]) -> list[str]:
    resource = build_resource(runners)
    begun = process_time()
    plan = make_plan(resource, Defaults())
    played = play(resource, plan, Scenario(losses, START_SECONDS, speeds))
    spent = process_time() - begun
    if played.moments[-1].phase != "Succeeded":
        raise AssertionError(f"{runners} runners, {label}: {played.moments[-1].message}")
    least = least_seconds(plan, speeds) + 4 * START_SECONDS
    fixed = plan.encoder.cost.seconds + fixed_shares_seconds(plan, speeds) + 4 * START_SECONDS
    return [
        f"{runners:,}",
        f"{len(plan.work):,}",
        label,
        format_seconds(played.seconds),
        format_seconds(least),
        f"{100 * (played.seconds / least - 1):+.1f} %",
        format_seconds(fixed),
        str(played.losses),
        format_seconds(played.redone_seconds),
        f"{spent:.1f} s",
    ]


def main() -> None:
    header = [
        "RUNNERS",
        "CLIPS",
        "WHAT HAPPENS",
        "MAKESPAN",
        "LEAST",
        "OVER",
        "FIXED SHARES",
        "PODS LOST",
        "REDONE",
        "CPU",
    ]
    rows = [measure(runners, *scenario) for runners in (4, 100, 1000) for scenario in SCENARIOS]
    print(render_table(header, rows))


if __name__ == "__main__":
    main()
