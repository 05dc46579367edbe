"""Every job beside its peers: bandits, anomalies, forecasts, small learners and recommenders, one after the other.

    python bench/jobs.py                  all five; about an hour
    python bench/jobs.py bandits learners

Each is a script of its own, with its own options and the bounds it is held to: `jobs_bandits.py` (Vowpal Wabbit),
`jobs_anomalies.py`, `jobs_forecasts.py`, `jobs_learners.py` and `jobs_recommenders.py` (River, scikit-learn).
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

JOBS = ("bandits", "anomalies", "forecasts", "learners", "recommenders")


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("jobs", nargs="*", metavar="JOB", help=f"of {', '.join(JOBS)}")
    wanted = options.parse_args().jobs or JOBS
    if unknown := [job for job in wanted if job not in JOBS]:
        options.error(f"got {unknown[0]!r}; expected one of {', '.join(JOBS)}")
    failed = [job for job in wanted if run(job)]
    if failed:
        print(f"failed: {', '.join(failed)}")
    return len(failed)


def run(job: str) -> int:
    print(f"== {job}", flush=True)
    return subprocess.run([sys.executable, str(Path(__file__).with_name(f"jobs_{job}.py"))], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
