"""Times the same scoring job on each runner in turn, and checks that they produce the same bytes.

    make build/flink/job-server.jar build/spark/job-server.jar
    python benchmarks/runners.py --model BUNDLE --rounds 3 --prism prism --input FILE.csv ... --text-column abstract

Flink and Spark run inside their job servers, and every runner leaves the work to the process of the command, so the
difference is the runner's own cost. Prints the median of several rounds and its ratio to the local runner's.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

from verbs import timed

CONFIGS = Path(__file__).parent.parent / "runner_configs"
BUILD = CONFIGS.parent / "build"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, metavar="BUNDLE")
    parser.add_argument("--input", required=True, nargs="+", metavar="PATH")
    parser.add_argument("--text-column", default="abstract", metavar="NAME")
    parser.add_argument("--id-column", default="record_id", metavar="NAME")
    parser.add_argument("--rounds", type=int, default=3, metavar="N")
    parser.add_argument("--prism", metavar="PATH", help="the binary of Prism; without it Prism is left out")
    options = parser.parse_args()
    runners = {"local": ["--workers", "1"]}
    if options.prism:
        runners["prism"] = ["--", "--runner=PrismRunner", f"--prism_location={options.prism}"]
    for name in ("flink", "spark"):
        jar = f"--{name}_job_server_jar={BUILD / name / 'job-server.jar'}"
        runners[name] = ["--runner-config", str(CONFIGS / f"{name}.yaml"), "--", jar]
    job = ["score", "--model", options.model, "--input", *options.input]
    job += ["--text-column", options.text_column, "--id-column", options.id_column]
    seconds: dict[str, list[float]] = {name: [] for name in runners}
    with tempfile.TemporaryDirectory() as scratch:
        for number in range(options.rounds):
            for name, flags in runners.items():
                output = Path(scratch) / f"{name}-{number}"
                seconds[name].append(timed([*job, "--output", str(output), *flags])[0])
        local = contents(Path(scratch) / "local-0")
        for name, times in seconds.items():
            middle = statistics.median(times)
            ratio = middle / statistics.median(seconds["local"])
            same = all(contents(Path(scratch) / f"{name}-{number}") == local for number in range(options.rounds))
            spread = f"{min(times):.1f} to {max(times):.1f} s"
            print(f"{name}: {middle:.1f} s ({spread}), {ratio:.2f} of local, {'same bytes' if same else 'OTHER BYTES'}")


if __name__ == "__main__":
    main()
