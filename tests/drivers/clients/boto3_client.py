"""boto3 against moto's server."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import boto3
import botocore.client
import botocore.exceptions
from run import COUNT, in_parallel, interrupted, raises


def connect(address: dict[str, Any], **options: Any) -> Any:
    return boto3.client(
        "s3",
        endpoint_url=f"http://{address['host']}:{address['port']}",
        region_name="us-east-1",
        aws_access_key_id="greenio",
        aws_secret_access_key="secret",
        config=botocore.client.Config(
            max_pool_connections=COUNT,
            s3={"addressing_style": "path"},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            **options,
        ),
    )


@contextlib.contextmanager
def operations(address: dict[str, Any]) -> Iterator[Callable[[int], None]]:
    client = connect(address)
    client.create_bucket(Bucket="bucket")
    in_parallel(lambda number: client.put_object(Bucket="bucket", Key=f"slow-{number}", Body=f"body {number}".encode()))

    def operation(number: int) -> None:
        answer = client.get_object(Bucket="bucket", Key=f"slow-{number}")
        assert answer["Body"].read() == f"body {number}".encode()

    yield operation
    client.close()


def errors(address: dict[str, Any]) -> None:
    """What the server says arrives; nobody listens; no answer in time; cancelled; the client goes on."""
    client = connect(address, retries={"max_attempts": 0}, read_timeout=0.1)
    client.create_bucket(Bucket="errors")
    client.put_object(Bucket="errors", Key="slow", Body=b"body")
    client.put_object(Bucket="errors", Key="quick", Body=b"body")
    with raises(client.exceptions.NoSuchKey):
        client.get_object(Bucket="errors", Key="nothing")
    with raises(botocore.exceptions.ReadTimeoutError):
        client.get_object(Bucket="errors", Key="slow")
    assert client.get_object(Bucket="errors", Key="quick")["Body"].read() == b"body"
    patient = connect(address)
    assert interrupted(lambda: patient.get_object(Bucket="errors", Key="slow")) == "cancelled"
    assert patient.get_object(Bucket="errors", Key="quick")["Body"].read() == b"body"
    with raises(botocore.exceptions.EndpointConnectionError):
        connect({**address, "port": 1}, retries={"max_attempts": 0}).list_buckets()
    client.close()
    patient.close()
