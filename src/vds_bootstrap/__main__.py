"""``python3 -m vds_bootstrap``: the same as the command vds-bootstrap."""

import sys

if sys.version_info < (3, 11):  # noqa: UP036 - this runs before anything has checked which Python there is
    sys.exit(f"Python {sys.version.split()[0]} is too old: VDSM needs Python 3.11 or newer (Debian 12 has it)")

from vds_bootstrap.main import main

sys.exit(main())
