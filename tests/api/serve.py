"""Runs the API as a process of its own: `python -m tests.api.serve SETTINGS_AS_JSON`."""

import json
import logging
import sys

from api.serve import run
from api.settings import ApiSettings

if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(levelname)s %(name)s %(message)s")
    sys.exit(run(ApiSettings(**json.loads(sys.argv[1]))))
