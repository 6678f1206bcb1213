#!/usr/bin/env python3
"""What benches/compare.sh and benches/uml.sh do with numbers.

table.py fio OPTION...  runs fio and prints its result as the load generator would
table.py table          runs, one JSON object a line, as a table of medians
table.py peers          the same for uml.sh: a job a line, this disk beside its peers
table.py json           the same runs as one JSON document
"""

import json
import resource
import subprocess
import sys
from statistics import median

REFERENCE = "qsd-raw-uring"


def run_fio(options):
    """One fio job's result under the load generator's names."""
    done = subprocess.run(["fio", *options, "--output-format=json"], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(f"fio: exit status {done.returncode}")
    # fio's own figures are those of its job threads alone, without io_uring's workers, which may do most of it.
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    # fio prints notes in front of the object.
    text = done.stdout
    job = json.loads(text[text.index("{"):])["jobs"][0]
    if job["error"]:
        sys.exit(f"fio: error {job['error']}")
    side = max(job["read"], job["write"], key=lambda one: one["total_ios"])
    requests, seconds = side["total_ios"], side["runtime"] / 1000
    percentile = side["clat_ns"].get("percentile", {})
    cpu_us = (spent.ru_utime + spent.ru_stime) * 1e6
    return {
        "requests": requests,
        "seconds": seconds,
        "requests_per_s": requests / seconds,
        "mib_per_s": side["bw_bytes"] / (1 << 20),
        "cpu_us_per_request": round(cpu_us / requests, 3),
        "latency": {
            "count": requests,
            "p50_us": percentile.get("50.000000", 0) / 1000,
            "p99_us": percentile.get("99.000000", 0) / 1000,
            "p999_us": percentile.get("99.900000", 0) / 1000,
            "max_us": side["clat_ns"]["max"] / 1000,
        },
        "resets": {"count": 0},
    }


def runs():
    return [json.loads(line) for line in sys.stdin if line.strip()]


def in_order(values):
    return list(dict.fromkeys(values))


def middle(results, *path):
    """The median of one number, or None where a run has none."""
    values = []
    for result in results:
        for step in path:
            result = result[step]
        values.append(result)
    return None if None in values else median(values)


def spread(results):
    """How far the runs lie apart, in percent of their median."""
    rates = [result["requests_per_s"] for result in results]
    return 100 * (max(rates) - min(rates)) / median(rates)


def number(value, form):
    return "-" if value is None else format(value, form)


def print_job(name, of_contender):
    reference = of_contender.get(REFERENCE)
    rate_of_reference = reference and middle(reference, "requests_per_s")
    print(f"\n{name}")
    for contender, results in of_contender.items():
        rate = middle(results, "requests_per_s")
        ratio = rate / rate_of_reference if rate_of_reference else None
        cpu = middle(results, "cpu_us_per_request")
        cpu_of_reference = reference and middle(reference, "cpu_us_per_request")
        saved = cpu_of_reference / cpu if cpu_of_reference and cpu else None
        flushed = [result for result in results if result.get("flushes", {}).get("count")]
        flush = middle(flushed, "flushes", "p50_us") if flushed else None
        resets = middle(results, "resets", "count")
        print(
            f"  {contender:17}"
            f"{rate / 1000:10.1f}"
            f"{middle(results, 'mib_per_s'):10.0f}"
            f"{number(cpu, '10.2f'):>10}"
            f"{middle(results, 'latency', 'p50_us'):10.1f}"
            f"{middle(results, 'latency', 'p99_us'):10.1f}"
            f"{number(ratio, '9.2f'):>9}x"
            f"{number(saved, '9.2f'):>9}x"
            f"{spread(results):8.0f}%"
            + (f"  {resets:.0f} resets" if resets else "")
            + (f"  flush p50 {flush:.0f} us" if flush else "")
        )


def print_table(all_runs):
    heads = ("k/s", "MiB/s", "CPU us", "p50 us", "p99 us")
    print(f"{'':19}" + "".join(f"{head:>10}" for head in heads) + f"{'ratio':>10}{'CPU':>10}{'spread':>9}")
    for name in in_order(run["name"] for run in all_runs):
        of_contender = {}
        for run in all_runs:
            if run["name"] == name:
                of_contender.setdefault(run["contender"], []).append(run["result"])
        print_job(name, of_contender)
    rounds = max(run["round"] for run in all_runs)
    print(f"\nMedians of {rounds} rounds, {all_runs[0]['place']}. CPU us: the backend's processor time for a request;")
    print(f"ratio: requests/s against {REFERENCE}; CPU: requests for a second of processor time against it;")
    print("spread: of requests/s over the rounds.")


def print_peers(all_runs):
    peers = [name for name in in_order(run["contender"] for run in all_runs) if name != "zbd"]
    # In an order of their own, as each round begins with another.
    peers.sort()
    heads = ["this disk", *peers, *(f"/ {peer}" for peer in peers)]
    print(f"{'requests/s':18}" + "".join(f"{head:>12}" for head in heads) + "   spread")
    for name in in_order(run["name"] for run in all_runs):
        results = {
            contender: [run["result"] for run in all_runs if (run["name"], run["contender"]) == (name, contender)]
            for contender in ["zbd", *peers]
        }
        rates = {contender: middle(runs_of, "requests_per_s") for contender, runs_of in results.items()}
        print(
            f"{name:18}"
            + "".join(f"{rate:12,.0f}" for rate in rates.values())
            + "".join(f"{rates['zbd'] / rates[peer]:12.2f}" for peer in peers)
            + "   "
            + ", ".join(f"{spread(runs_of):.0f}" for runs_of in results.values())
            + " %"
        )
    rounds = max(run["round"] for run in all_runs)
    print(f"\nMedians of {rounds} rounds; / is this disk's rate against that peer's; spread: how far the rounds of each lie apart.")


def main():
    command = sys.argv[1] if len(sys.argv) > 1 else ""
    if command == "fio":
        json.dump(run_fio(sys.argv[2:]), sys.stdout)
    elif command == "table":
        print_table(runs())
    elif command == "peers":
        print_peers(runs())
    elif command == "json":
        json.dump(runs(), sys.stdout, indent=1)
        print()
    else:
        sys.exit(__doc__)


main()
