"""`python -m glm_train`: the same as `glm-train`."""

import sys

from glm_train.cli.main import main

sys.exit(main())
