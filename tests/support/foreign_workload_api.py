"""A SPIFFE Workload API that is not ours: grpcio's server, and the messages of `spiffe`.

It has no EnforcementService, checks the security header, and does what a test says: gives
SVIDs, takes them back, breaks off, answers nonsense.
"""

import threading
from concurrent import futures

import grpc
from spiffe._proto import workload_pb2 as pb
from spiffe._proto import workload_pb2_grpc as pb_grpc

from tests.support.sdk_messages import svid_message


class ForeignWorkloadAPI(pb_grpc.SpiffeWorkloadAPIServicer):
    """Serves on a Unix socket until it is stopped; may be started again."""

    def __init__(self, path):
        self.path = path
        self.calls = []
        self.jwt = lambda request: (_ for _ in ()).throw(KeyError)
        self.valid = {}  # token: (SPIFFE ID, claims)
        self._changed = threading.Condition()
        self._svids = None
        self._bundles = None
        self._refusal = None
        self._epoch = 0
        self._server = None

    def start(self):
        self._server = grpc.server(futures.ThreadPoolExecutor(max_workers=8))
        pb_grpc.add_SpiffeWorkloadAPIServicer_to_server(self, self._server)
        assert self._server.add_insecure_port(f"unix:{self.path}")
        self._server.start()

    def stop(self):
        with self._changed:
            self._epoch += 1
            self._changed.notify_all()
        self._server.stop(0).wait()

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.stop()

    def give(self, *svids, crls=(), federated=None):
        """Send these identities of `tests.support.sdk_messages` to everybody from now on."""
        messages = [svid_message(each, kind=pb.X509SVID) for each in svids]
        federated = federated or {}
        self.send(pb.X509SVIDResponse(svids=messages, crl=crls, federated_bundles=federated))

    def give_bundles(self, bundles, crls=()):
        with self._changed:
            self._bundles = pb.X509BundlesResponse(bundles=dict(bundles), crl=crls)
            self._epoch += 1
            self._changed.notify_all()

    def send(self, response):
        with self._changed:
            self._svids, self._refusal = response, None
            self._epoch += 1
            self._changed.notify_all()

    def refuse(self, code, details):
        """End all streams with a status, and every new call."""
        with self._changed:
            self._refusal = (code, details)
            self._epoch += 1
            self._changed.notify_all()

    def FetchX509SVID(self, request, context):  # noqa: N802 - the name on the wire
        yield from self._follow(context, lambda: self._svids)

    def FetchX509Bundles(self, request, context):  # noqa: N802 - the name on the wire
        yield from self._follow(context, lambda: self._bundles)

    def FetchJWTSVID(self, request, context):  # noqa: N802 - the name on the wire
        self._check(context)
        return self.jwt(request)

    def ValidateJWTSVID(self, request, context):  # noqa: N802 - the name on the wire
        self._check(context)
        found = self.valid.get((request.svid, request.audience))
        if found is None:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "token is expired")
        response = pb.ValidateJWTSVIDResponse(spiffe_id=found[0])
        response.claims.update(found[1])
        return response

    def _check(self, context):
        metadata = dict(context.invocation_metadata())
        self.calls.append(metadata)
        if metadata.get("workload.spiffe.io") != "true":
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "security header missing")

    def _follow(self, context, current):
        self._check(context)
        seen, sent = -1, None
        context.add_callback(self._wake)
        while context.is_active():
            with self._changed:
                if self._refusal is not None:
                    context.abort(*self._refusal)
                if self._epoch == seen:
                    self._changed.wait(5)
                    continue
                seen, response = self._epoch, current()
            if response is not None and response is not sent:
                sent = response
                yield response

    def _wake(self):
        with self._changed:
            self._changed.notify_all()
