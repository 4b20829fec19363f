"""A gRPC workload without a proxy: `server NAME ADDRESS CERTIFICATES` or `client TARGET`.

The client reads a number of calls from each line of standard input and answers with a JSON object: how many of them
each server has answered, and how many failed with which status.
"""

import collections
import concurrent.futures
import json
import os
import sys

import grpc

METHOD = "/echo.Echo/Call"
# Seconds that a call may take; it waits for the configuration that long.
PATIENCE = 20


def identity(data):
    return data


class Echo(grpc.GenericRpcHandler):
    def __init__(self, name):
        self.name = name.encode()

    def service(self, details):
        if details.method != METHOD:
            return None
        return grpc.unary_unary_rpc_method_handler(lambda request, context: self.name, identity, identity)


def server(name, address, folder):
    def read(file):
        with open(os.path.join(folder, file), "rb") as opened:
            return opened.read()

    credentials = grpc.ssl_server_credentials(
        [(read("tls.key"), read("tls.crt"))], read("ca.crt"), require_client_auth=True
    )
    running = grpc.server(concurrent.futures.ThreadPoolExecutor(4), handlers=[Echo(name)])
    running.add_secure_port(address, credentials)
    running.start()
    print("ready", flush=True)
    running.wait_for_termination()


def client(target):
    # Without what the control server says about security there is no connection: nothing to fall back to.
    credentials = grpc.xds_channel_credentials(grpc.ssl_channel_credentials())
    with grpc.secure_channel(target, credentials) as channel:
        call = channel.unary_unary(METHOD, identity, identity)
        for line in sys.stdin:
            outcomes = collections.Counter()
            for _ in range(int(line)):
                try:
                    outcomes[call(b"", timeout=PATIENCE, wait_for_ready=True).decode()] += 1
                except grpc.RpcError as error:
                    outcomes[f"{error.code().name}: {error.details()}"] += 1
            print(json.dumps(outcomes), flush=True)


if __name__ == "__main__":
    {"server": server, "client": client}[sys.argv[1]](*sys.argv[2:])
