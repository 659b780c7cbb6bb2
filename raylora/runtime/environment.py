"""Which environment variables a run hands to its workers: an explicit list, and nothing else.

The list is for the workers of a cluster, which know nothing of the driver's environment; those of a Ray that is started
for the run inherit all of it. Values travel in the memory of the run's mailbox, never in a spec, a log line or Ray's
job records.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

NAMES = frozenset(
    {
        "RAYLORA_HOME",
        "RAYLORA_SIGNING_KEY",
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "AWS_PROFILE",
        "AWS_REGION",
        "AWS_DEFAULT_REGION",
        "AWS_ENDPOINT_URL",
        "AWS_ENDPOINT_URL_S3",
        "AWS_CA_BUNDLE",
        "HF_TOKEN",
        "HF_HOME",
        "HF_HUB_CACHE",
        "HF_DATASETS_CACHE",
        "HF_ENDPOINT",
        "HF_HUB_OFFLINE",
        "HF_DATASETS_OFFLINE",
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "NO_PROXY",
        "http_proxy",
        "https_proxy",
        "no_proxy",
        "SSL_CERT_FILE",
        "REQUESTS_CA_BUNDLE",
    }
)
"""Where things are kept and how to reach them."""


def forwarded(extra: Sequence[str]) -> dict[str, str]:
    """The driver's variables that workers get.

    Args:
        extra: Further names from ``ray.forward_env``.
    """
    return {name: os.environ[name] for name in sorted(NAMES | set(extra)) if name in os.environ}
