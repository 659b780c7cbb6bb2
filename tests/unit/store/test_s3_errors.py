"""What is advised for what S3 answers."""

from __future__ import annotations

import pytest
from botocore.exceptions import ClientError

from raylora.store.s3_errors import store_error


@pytest.mark.parametrize(("code", "more"), [("400", True), ("ExpiredToken", False)])
def test_an_answer_without_a_document_may_be_of_more_than_the_credentials(code: str, more: bool) -> None:
    """HEAD gets 400 of a token that expired, and of a wrong region, signature or encryption."""
    said = str(store_error(ClientError({"Error": {"Code": code}}, "HeadObject"), "s3://b/a: cannot be read", "b"))
    assert f"refuses the credentials ({code}); correct AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY" in said
    assert ("AWS_DEFAULT_REGION" in said and "encryption" in said) is more
