"""All tests in two processes at a time: those on a real Slurm, which mostly wait for jobs, beside all others.

python tests/side_by_side.py [OPTION ...]    (options of pytest, given to both)
"""

import subprocess
import sys
import tempfile
from pathlib import Path

TESTS = Path(__file__).parent
NONE_COLLECTED = 5


def main(options: list[str]) -> int:
    """Run both; what the first printed follows when the others have ended. Give the graver exit status."""
    pytest = [sys.executable, "-m", "pytest", *options]
    slurm = TESTS / "slurm"
    with tempfile.TemporaryFile() as log:
        waiting = subprocess.Popen([*pytest, str(slurm)], stdout=log, stderr=subprocess.STDOUT)
        try:
            others = subprocess.call([*pytest, f"--ignore={slurm}", str(TESTS)])
            first = waiting.wait()
        finally:
            if waiting.poll() is None:
                waiting.terminate()  # pytest ends the cluster that it has started
                waiting.wait()
        log.seek(0)
        sys.stdout.buffer.write(log.read())
    return max(status for status in (others, first) if status != NONE_COLLECTED or others == first)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
