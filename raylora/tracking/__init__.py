"""MLflow: one run per training, its metrics, inputs, artifacts and lineage. The only room that imports mlflow.

Its environment variables are set here, before mlflow reads them. A user's own values stay, but for one.
"""

from __future__ import annotations

import os

# The outboxes of this room repeat requests themselves, and must be able to give up in time.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
# MLflow reports its use to its makers by default; whose training this is, is nobody's business.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
# The terminal shows the training.
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
# Standard output belongs to results, and the address that MLflow would print there may carry a password.
os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"
