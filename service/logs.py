"""The service's logger. It stands under BentoML's, to share its handlers, format and level."""

import logging

logger = logging.getLogger("bentoml.fitserve")
