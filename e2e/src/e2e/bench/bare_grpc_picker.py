"""A minimal endpoint picker on grpc.aio: it decodes each message and picks the endpoints in turn.

`python -m e2e.bench.bare_grpc_picker ADDRESS ENDPOINT...`. It does not schedule, read bodies or count requests. What
remains is the cost of the transport.
"""

import asyncio
import itertools
import sys

import grpc
import uvloop
from envoy.service.ext_proc.v3 import external_processor_pb2 as pb
from picker.extproc.codec import encode
from picker.extproc.messages import BodyReply, Changes, HeadersReply, Phase
from picker.protocol import DESTINATION

_Call = grpc.aio.ServicerContext[bytes, bytes]
_MAX_MESSAGE_BYTES = 64 << 20


class BareServer:
    def __init__(self, endpoints: list[str]) -> None:
        picks = [Changes(set_headers=((DESTINATION, endpoint),), destination=endpoint) for endpoint in endpoints]
        self._to_headers = encode(HeadersReply(Phase.REQUEST))
        self._to_only_headers = itertools.cycle(encode(HeadersReply(Phase.REQUEST, pick)) for pick in picks)
        self._to_body = itertools.cycle(encode(BodyReply(Phase.REQUEST, pick)) for pick in picks)

    async def process(self, _requests: object, call: _Call) -> None:
        while (data := await call.read()) is not grpc.aio.EOF:
            assert isinstance(data, bytes)
            request = pb.ProcessingRequest.FromString(data)
            if not request.HasField("request_headers"):
                await call.write(next(self._to_body))
            elif request.request_headers.end_of_stream:
                await call.write(next(self._to_only_headers))
            else:
                await call.write(self._to_headers)


async def serve(address: str, endpoints: list[str]) -> None:
    server = grpc.aio.server(options=(("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),))
    handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.stream_stream_rpc_method_handler(BareServer(endpoints).process)
    service = "envoy.service.ext_proc.v3.ExternalProcessor"
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {"Process": handler}),))
    server.add_insecure_port(address)
    await server.start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(serve(sys.argv[1], sys.argv[2:]))
