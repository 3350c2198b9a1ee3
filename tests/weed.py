"""A real S3 server of our own, on loopback, that can be killed and started again."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

WEED = Path(sys.executable).parent / "weed"
KEYS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}


class Weed:
    """SeaweedFS with an empty bucket ``radtransfer``; ``url`` is its endpoint, ``reader`` has keys to read alone."""

    reader = KEYS | {"AWS_ACCESS_KEY_ID": "reader", "AWS_SECRET_ACCESS_KEY": "secret-of-the-reader"}

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "data").mkdir()
        identities = [
            {
                "name": keys["AWS_ACCESS_KEY_ID"],
                "credentials": [{"accessKey": keys["AWS_ACCESS_KEY_ID"], "secretKey": keys["AWS_SECRET_ACCESS_KEY"]}],
                "actions": actions,
            }
            for keys, actions in ((KEYS, ["Admin", "Read", "Write", "List"]), (self.reader, ["Read", "List"]))
        ]
        (folder / "s3.json").write_text(json.dumps({"identities": identities}))
        with ExitStack() as stack:
            sockets = [stack.enter_context(socket.socket()) for _ in range(8)]
            for each in sockets:
                each.bind(("127.0.0.1", 0))
            self.ports = [each.getsockname()[1] for each in sockets]
        self.url = f"http://127.0.0.1:{self.ports[6]}"
        self.client: Any = boto3.client(
            "s3",
            endpoint_url=self.url,
            region_name=KEYS["AWS_DEFAULT_REGION"],
            aws_access_key_id=KEYS["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=KEYS["AWS_SECRET_ACCESS_KEY"],
            config=Config(retries={"total_max_attempts": 1}, connect_timeout=5, read_timeout=10),
        )
        self.start()
        self.client.create_bucket(Bucket="radtransfer")

    def start(self) -> None:
        """Start the server on the data that it had, and wait until it answers and takes an object."""
        names = ("master.port", "volume.port", "filer.port", "s3.port")
        options = [f"-{name}{end}" for name in names for end in ("", ".grpc")]
        command = [str(WEED), "server", "-dir", str(self.folder / "data"), "-ip", "127.0.0.1", "-ip.bind", "127.0.0.1"]
        command += ["-filer", "-s3", "-s3.config", str(self.folder / "s3.json"), "-master.volumeSizeLimitMB", "64"]
        # These have ports of their own, the same for every server: 0 leaves them out.
        command += ["-volume.max", "20", "-s3.port.iceberg", "0", "-s3.port.lance", "0"]
        command += [f"{option}={port}" for option, port in zip(options, self.ports, strict=True)]
        with (self.folder / "log").open("ab") as log:
            environment = os.environ | {"TMPDIR": str(self.folder)}
            self._server = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        deadline = time.monotonic() + 90
        while True:
            try:
                if not any(bucket["Name"] == "ready" for bucket in self.client.list_buckets()["Buckets"]):
                    self.client.create_bucket(Bucket="ready")
                self.client.put_object(Bucket="ready", Key="ready", Body=b"ready")
                self.client.get_object(Bucket="ready", Key="ready")["Body"].read()
                return
            except (BotoCoreError, ClientError) as error:
                if time.monotonic() > deadline:
                    raise AssertionError((self.folder / "log").read_text()[-2000:]) from error
                time.sleep(0.3)

    def kill(self) -> None:
        """End it at once; it would take half a minute to say good-bye."""
        self._server.kill()
        self._server.wait(timeout=30)
        for port in self.ports:
            for left in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):
                left.unlink(missing_ok=True)
