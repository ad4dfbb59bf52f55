"""A worker of `worker_pool` that misbehaves as its requests say."""

import os
import sys
import time
from multiprocessing.connection import Connection


def main() -> None:
    with Connection(int(sys.argv[1])) as connection:
        connection.send_bytes(b"ready")
        while True:
            request = connection.recv_bytes()
            if request == b"half a reply":
                os.write(connection.fileno(), (100).to_bytes(4, "big") + b"half")
                time.sleep(60)
            elif request == b"slow":
                time.sleep(60)
            elif request == b"die":
                os._exit(1)
            else:
                connection.send_bytes(request)


if __name__ == "__main__":
    main()
