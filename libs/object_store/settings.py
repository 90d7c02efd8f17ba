"""Where objects are kept; services that keep some derive their settings from this class."""

from __future__ import annotations

from pydantic import Field, SecretStr

from libs.object_store.store import S3Options
from libs.runtime.settings import ServiceSettings


class ObjectStoreSettings(ServiceSettings):
    """The store's address and, for S3, the usual AWS_* names; without keys, those of the machine's role are used."""

    object_store_url: str = Field(
        "var/objects", description="Where audio is kept: a directory, file:///DIR, s3://BUCKET/PREFIX or memory://"
    )
    aws_access_key_id: str | None = Field(None, description="Key of an s3:// store")
    aws_secret_access_key: SecretStr | None = Field(None, description="Its secret")
    aws_session_token: SecretStr | None = Field(None, description="With temporary keys")
    aws_region: str | None = Field(None, description="Region of the bucket; us-east-1 when none is named")
    aws_endpoint_url: str | None = Field(None, description="An S3-compatible server such as MinIO: https://HOST:PORT")

    @property
    def s3_options(self) -> S3Options:
        """What an s3:// store needs beside its URL."""
        secret, token = self.aws_secret_access_key, self.aws_session_token
        return S3Options(
            self.aws_access_key_id,
            secret.get_secret_value() if secret is not None else None,
            token.get_secret_value() if token is not None else None,
            self.aws_region,
            self.aws_endpoint_url,
        )
