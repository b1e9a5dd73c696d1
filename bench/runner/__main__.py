"""Measures Reactor beside its peers, in alternating rounds, and prints tables of ratios.

Every sample is taken from a server started for it. Rounds alternate (A B C, A B C, ...), so that
what disturbs the machine for a while disturbs everybody.
"""

import argparse
import contextlib
import json
import resource
import signal
import sys
from pathlib import Path

import machine
import scenarios
import tables
import targets
from certificate import Certificate
from server import BENCH, Failed, kinds

# CPUs used by other programs from which on a round is called disturbed.
DISTURBANCE = 0.1


def arguments():
    parser = argparse.ArgumentParser(prog="bench/run.sh", description=__doc__)
    names = ", ".join(
        [scenario.name for scenario in scenarios.ALL if not scenario.grid] + [*scenarios.GRIDS]
    )
    parser.add_argument(
        "--scenarios", default=",".join(scenarios.DEFAULT), help=f"of {names}; or all"
    )
    parser.add_argument("--servers", help="names, separated by commas (all)")
    parser.add_argument("--rounds", type=int, help="of each scenario (5; idle, stuck and slow 3)")
    parser.add_argument("--seconds", type=float, help="measured in a round (3)")
    parser.add_argument("--warmup", type=float, help="seconds before that (1)")
    parser.add_argument("--idle-connections", type=int, default=10_000)
    parser.add_argument("--threads", type=int, default=1, help="of the load client")
    parser.add_argument("--quick", action="store_true", help="2 short rounds: does it work at all")
    parser.add_argument("--erl", default="", metavar="FLAGS", help="for every BEAM server alike")
    parser.add_argument("--out", type=Path, help="write the tables to this file too")
    parser.add_argument("--json", type=Path, help="write every sample to this file")
    parser.add_argument("--strict", action="store_true", help="a target not met is a failure")
    parser.add_argument("--load", default=BENCH / "load/target/release/reactor_load", type=Path)
    parser.add_argument("--python", default=sys.executable, help="of asyncio and uvloop")
    parser.add_argument("--build", default=BENCH.parent / "_build/prod", type=Path)
    return parser.parse_args()


def settings(options, certificate):
    rounds, slow, seconds, warmup, settle = (
        (2, 1, 1.0, 0.3, 0.5) if options.quick else (5, 3, 3.0, 1.0, 2.0)
    )
    return scenarios.Settings(
        binary=options.load,
        seconds=options.seconds or seconds,
        warmup=warmup if options.warmup is None else options.warmup,
        settle=settle,
        rounds=options.rounds or rounds,
        idle_rounds=options.rounds or slow,
        idle_connections=options.idle_connections,
        threads=options.threads,
        certificate=certificate,
    )


def chosen(wanted, everything, what):
    """Those of `everything` that are named, in their own order."""
    names = [thing.name for thing in everything]
    if wanted in (None, "all"):
        return everything
    grids = {getattr(thing, "grid", None) for thing in everything} - {None}
    unknown = set(wanted.split(",")) - set(names) - grids
    if unknown:
        known = ", ".join([*names, *sorted(grids)])
        raise SystemExit(f"unknown {what}: {', '.join(unknown)}; there are {known}")
    wanted = wanted.split(",")
    return [thing for thing in everything if thing.name in wanted or of_a_grid(thing) in wanted]


def of_a_grid(thing):
    """The name of the grid that a scenario is of; all of one are chosen by it. Else False."""
    return getattr(thing, "grid", None) or False


def measure(scenario, servers, setting):
    """Alternating rounds; a server that fails is out of the scenario, and said so."""
    servers = scenario.measured(servers)
    samples = {kind.name: [] for kind in servers}
    failures = []
    for turn in range(setting.idle_rounds if scenario.slow else setting.rounds):
        for kind in servers:
            if kind.name not in samples:
                continue
            print(f"{scenario.name}, round {turn + 1}: {kind.name}", file=sys.stderr, flush=True)
            try:
                samples[kind.name].append(scenario.sample(kind, setting, **scenario.options))
            except Failed as failure:
                failures.append(f"{scenario.name}: {failure}")
                print(f"  failed: {failure}", file=sys.stderr, flush=True)
                del samples[kind.name]
    return samples, failures


def disturbed(samples):
    """Rounds in which other programs took enough of the machine to spoil the figures."""
    return [
        f"Disturbed: {scenario}, {server}, round {turn + 1}: others used "
        f"{sample['others']:.2f} CPUs; measure again on a quiet machine.\n"
        for scenario, servers in samples.items()
        for server, taken in servers.items()
        for turn, sample in enumerate(taken)
        if sample.get("others", 0) > DISTURBANCE
    ]


def main():
    options = arguments()
    # So that the servers are ended, as they are on Ctrl-C.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    measured = chosen(options.scenarios, scenarios.ALL, "scenarios")
    secure = any(scenario.over == "tls" for scenario in measured)
    with Certificate() if secure else contextlib.nullcontext() as certificate:
        return run(options, measured, settings(options, certificate))


def run(options, measured, setting):
    # Servers inherit it; 10,000 connections need more than the usual soft limit.
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    every_kind = kinds(options.python, options.erl, options.build)
    wanted = chosen(options.servers, every_kind, "servers")
    servers = [kind for kind in wanted if kind.missing is None]
    subjects = {kind.name for kind in every_kind if kind.subject}
    text = ["## Benchmark\n", machine.describe(options.python, options.erl, setting)]
    text += [f"{kind.name} was left out: {kind.missing}.\n" for kind in wanted if kind.missing]
    samples, failures = {}, []
    for scenario in measured:
        samples[scenario.name], failed = measure(scenario, servers, setting)
        failures += failed
        if scenario.grid:
            continue
        text.append(tables.scenario(scenario.title, scenario.columns, samples[scenario.name]))
        text.append(tables.negotiated(samples[scenario.name]))
        text.append(tables.ratios(scenario.ratios, samples[scenario.name], subjects))
    for name, title in scenarios.GRIDS.items():
        cells = [(cell.title, samples[cell.name]) for cell in measured if cell.grid == name]
        if cells:
            text.append(tables.grid(title, cells, subjects))
    promised = [target for target in targets.ALL if target.scenario in samples]
    if promised:
        text.append(tables.targets(promised, samples))
    text += disturbed(samples)
    text += [f"Failed: {failure}\n" for failure in failures]
    report = "\n".join(text)
    print(report)
    for path, content in ((options.out, report), (options.json, json.dumps(samples, indent=1))):
        if path:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
    unmet = [
        target
        for target in promised
        if (value := target.measured(samples)) is not None and not target.met(value)
    ]
    return 1 if failures or (options.strict and unmet) else 0


if __name__ == "__main__":
    sys.exit(main())
