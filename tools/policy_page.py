#!/usr/bin/env python3
"""How well the allocation policy does, measured and written down.

    python tools/policy_page.py transfer zoo/cases --rivals zoo/rivals --ablations -o docs/results/policy-transfer.json --seeds 5
    python tools/policy_page.py measured zoo/cases --models zoo/ --calibration A -o docs/results/policy-measured.json --seeds 2
    ramp-edge train zoo/cases/MODEL.npz -o MODEL.onnx    # and others
    python tools/policy_page.py target MODEL.onnx ... -o docs/results/policy-target.json
    ramp-edge build MODEL --allocator best ... -o out    # and again at other sizes
    python tools/policy_page.py builds out*/build.json --texts 'calibrated on A, measured on B' -o docs/results/policy-builds.json
    python tools/policy_page.py page --builds docs/results/policy-builds.json --tuned docs/results/policy-tuned.json --target docs/results/policy-target.json \\
        --transfer docs/results/policy-transfer.json --measured docs/results/policy-measured.json --trials docs/results/policy-trials.json --zoo docs/results/policy-zoo.json \\
        --pictures docs/results -o docs/policy.md

`transfer` trains without each family and allocates its models; `measured` does so with measured KL in a share of the episodes. Finished runs in a
record are not done again. `page` writes the page from
the records alone.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from policy.page import page
from policy.summary import build_summary

if TYPE_CHECKING:
    from ramp_edge.train.run import TrainSettings


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    names = ("transfer", "measured", "target", "builds", "page")
    run, measured, target, builds, write = (verbs.add_parser(name) for name in names)
    target.add_argument("policies", type=Path, nargs="+", help="each trained on one model")
    write.add_argument("--target", type=Path, required=True, help="record of target")
    for verb in (run, measured):
        verb.add_argument("cases", type=Path, nargs="+")
        verb.add_argument("--seeds", type=int, default=5)
        verb.add_argument("--first-seed", type=int, default=0)
        verb.add_argument("--rounds", type=int, default=60)
        verb.add_argument("--threads", type=int, default=1)
    measured.add_argument(
        "--models", type=Path, nargs="+", required=True, help="GGUF files of cases, or folders of them"
    )
    measured.add_argument("--calibration", type=Path, action="append", required=True, help="as the cases had")
    measured.add_argument("--share", type=float, default=0.1, help="of the episodes that are measured")
    run.add_argument(
        "--rivals", type=Path, required=True, help="the folder that tools/build_zoo.py leaves beside the cases"
    )
    run.add_argument("--ablations", action="store_true", help="also the trainings with parts left out, seed 0")
    run.add_argument("--pictured", help="the model whose allocation is drawn; default: the last")
    run.add_argument("--discrete-seeds", type=int, default=3, help="of the actor that chooses among types")
    builds.add_argument("records", type=Path, nargs="+", help="build.json of builds with --allocator best")
    builds.add_argument("--texts", required=True, help="in words: what was calibrated and measured on")
    write.add_argument(
        "--transfer", type=Path, nargs="+", required=True, help="records of transfer; their runs are joined"
    )
    write.add_argument("--zoo", type=Path, required=True, help="figures of the zoo's training, by model")
    write.add_argument("--trials", type=Path, required=True, help="designs that were tried, one run each")
    write.add_argument("--builds", type=Path, required=True)
    write.add_argument("--tuned", type=Path, required=True, help="the same of builds with --tune")
    write.add_argument("--pictures", type=Path, help="where the pictures go; needs matplotlib")
    write.add_argument(
        "--measured", type=Path, nargs="+", required=True, help="records of measured; their runs are joined"
    )
    for verb in (run, measured, target, builds, write):
        verb.add_argument("-o", "--output", type=Path, required=True)
    return parser.parse_args(argv)


def save(path: Path, text: str) -> None:
    """Beside, then renamed."""
    partial = path.with_suffix(".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def ablated(settings: TrainSettings) -> dict[str, TrainSettings]:
    """Trainings with one part left out, and one that dares more."""
    plain = replace(settings.reward, worse=0.0, unused=0.0, cliff=0.0)
    return {
        "quality alone in the reward": replace(settings, reward=plain),
        "no correction": replace(settings, correction=replace(settings.correction, passes=0)),
        "no demonstrations": replace(settings, demonstrations=0),
        "ten times the actor's rate": replace(
            settings, sac=replace(settings.sac, actor_rate=10 * settings.sac.actor_rate)
        ),
    }


def measure(options: argparse.Namespace) -> None:
    """Fill the record run by run, seed by seed, so that a stop leaves whole rounds of families."""
    import torch
    from policy.designs import coarse, distilled_by_networks
    from policy.discrete import discrete
    from policy.distilled import distilled, feature_groups_out
    from policy.explained import explained
    from policy.transfer import allocation, rivals, transfer
    from zoo.rivals import load_rivals

    from ramp_edge.train.files import read_cases
    from ramp_edge.train.run import TrainSettings as Settings

    torch.set_num_threads(options.threads)
    cases = read_cases(options.cases)
    settings = Settings(rounds=options.rounds)
    record = json.loads(options.output.read_text()) if options.output.exists() else {"runs": []}
    if "rivals" not in record:
        record["models"] = [
            {"name": c.name, "family": c.family, "tensors": len(c.names), "weights": int(c.n_weights.sum())} for c in cases
        ]  # fmt: skip
        record["explained"] = explained(cases)
        seen = {case.name: load_rivals(options.rivals / f"{case.name}.npz") for case in cases}
        record["rivals"] = rivals(cases, seen)
        record["distilled"] = distilled(cases)
        save(options.output, json.dumps(record, indent=1))
    if "networks" not in record:
        record["coarse"], record["networks"] = coarse(cases), distilled_by_networks(cases)
        save(options.output, json.dumps(record, indent=1))
    if "groups_out" not in record:
        record["groups_out"] = feature_groups_out(cases)
        save(options.output, json.dumps(record, indent=1))
    if "allocation" not in record:
        record["allocation"] = allocation(next(c for c in cases if c.name == (options.pictured or cases[-1].name)))
        save(options.output, json.dumps(record, indent=1))
    runs = [
        ("", replace(settings, seed=seed)) for seed in range(options.first_seed, options.first_seed + options.seeds)
    ]
    if options.ablations:
        runs += list(ablated(settings).items())
    done = {(r["label"], r["family"], r["seed"], r["rounds"]) for r in record["runs"]}
    for label, chosen in runs:
        for family in sorted({c.family for c in cases}):
            if (label, family, chosen.seed, chosen.rounds) not in done:
                record["runs"].append(transfer(cases, family, chosen, label))
                save(options.output, json.dumps(record, indent=1))
                print(f"{label or 'all'}, without {family}, seed {chosen.seed}: done", flush=True)
    found = record.setdefault("discrete", [])
    for seed in range(options.first_seed, options.first_seed + options.discrete_seeds):
        for family in sorted({c.family for c in cases}):
            if (family, seed) not in {(r["family"], r["seed"]) for r in found}:
                found.append(discrete(cases, family, seed))
                save(options.output, json.dumps(record, indent=1))
                print(f"discrete, without {family}, seed {seed}: done", flush=True)


def measure_plans(options: argparse.Namespace) -> None:
    """Fill the record of training with measurements, run by run."""
    import torch
    from policy.with_measurements import transfer_measured

    from ramp_edge.events import EventBus
    from ramp_edge.train.files import read_cases
    from ramp_edge.train.measured_models import measured_models, models_of
    from ramp_edge.train.run import TrainSettings as Settings

    torch.set_num_threads(options.threads)
    cases = read_cases(options.cases)
    record = json.loads(options.output.read_text()) if options.output.exists() else {"runs": []}
    models = models_of(options.models, cases)
    with measured_models(
        models, options.calibration, EventBus(), share=options.share, threads=options.threads
    ) as truth:
        for seed in range(options.first_seed, options.first_seed + options.seeds):
            for family in sorted({c.family for c in cases if c.name in models}):
                if (family, seed) not in {(r["family"], r["seed"]) for r in record["runs"]}:
                    settings = Settings(rounds=options.rounds, seed=seed)
                    record["runs"].append(transfer_measured(cases, family, settings, truth))
                    save(options.output, json.dumps(record, indent=1))
                    print(f"without {family}, seed {seed}: done", flush=True)


def joined(records: list[dict[str, Any]]) -> dict[str, Any]:
    """The first record with all runs, each once."""
    runs = {(r["label"], r["family"], r["seed"], r["rounds"]): r for record in records for r in record["runs"]}
    discrete = {(r["family"], r["seed"]): r for record in records for r in record.get("discrete", ())}
    return {**records[0], "runs": list(runs.values()), "discrete": list(discrete.values())}


def main(argv: list[str] | None = None) -> int:
    """Command line entry."""
    options = parse(argv)
    if options.verb == "transfer":
        measure(options)
    elif options.verb == "measured":
        measure_plans(options)
    elif options.verb == "target":
        from ramp_edge.allocate.policy import load_policy

        records = [load_policy(path).record for path in options.policies]
        scores = {r["cases"][0]["name"]: r["kl_over_knapsack"] for r in records}
        save(options.output, json.dumps(scores, indent=1) + "\n")
    elif options.verb == "builds":
        found = [build_summary(json.loads(path.read_text()), options.texts) for path in options.records]
        save(options.output, json.dumps(found, indent=1) + "\n")
    else:
        transfer = joined([json.loads(path.read_text()) for path in options.transfer])
        measured = {"runs": [r for path in options.measured for r in json.loads(path.read_text())["runs"]]}
        others = (
            json.loads(p.read_text())
            for p in (options.builds, options.tuned, options.target, options.trials, options.zoo)
        )
        save(options.output, page(transfer, measured, *others, pictures=options.pictures is not None))
        if options.pictures is not None:
            from policy.pictures import allocation, curves

            curves([r for r in transfer["runs"] if not r["label"]], options.pictures / "policy-curves.svg")
            allocation(transfer["allocation"], options.pictures / "policy-allocation.svg")
    return 0


if __name__ == "__main__":
    sys.exit(main())
