# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""``python -m tests.integration.beside`` measures, and prints the measured part of the page.

With ``--write``, that part goes into the page.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

from tests.integration.beside.measured import PAGE, measure, write


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure what MLflow shows of both.")
    parser.add_argument("--write", action="store_true", help=f"write it into docs/{PAGE.name}")
    options = parser.parse_args()
    # litellm would fetch its price list, as in the Makefile.
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    with tempfile.TemporaryDirectory() as directory:
        measured = measure(Path(directory))
    if options.write:
        write(PAGE, measured)
    else:
        print(measured)


if __name__ == "__main__":
    main()
