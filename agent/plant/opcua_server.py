"""The OPC UA server, a process of its own: `OpcUaServer` starts it. Lines of JSON connect the two.

Names of nodes follow OPC 40100-1 (Machine Vision), without its types: for each camera a state machine, methods of jobs,
and recipes. The signals of the handshake are beside them. May import `signals` and `system`.

stdin: first the options, then `{"camera": 0, "outputs": {...}}`. stdout: `{"listening": true}`, then
`{"camera": 0, "inputs": {...}}`, and `{"clients": true}` regularly while there are some. The process ends with stdin.
"""

import asyncio
import contextlib
import hashlib
import json
import logging
import socket
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from asyncua import Node, Server, ua, uamethod
from asyncua.common.callback import CallbackType
from asyncua.crypto.cert_gen import setup_self_signed_certificate
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from zsad_agent.plant.signals import INPUTS, OUTPUTS, Inputs, Kind, Outputs, Signal
from zsad_agent.system import keep_alive

NAMESPACE = "urn:zsad:machine-vision"
TYPES = {
    Kind.BIT: ua.VariantType.Boolean,
    Kind.U16: ua.VariantType.UInt16,
    Kind.U32: ua.VariantType.UInt32,
    Kind.F32: ua.VariantType.Float,
}
SECURE = [
    ua.SecurityPolicyType.Basic256Sha256_SignAndEncrypt,
    ua.SecurityPolicyType.Aes256Sha256RsaPss_SignAndEncrypt,
]
LOOK_FOR_CLIENTS_S = 0.2
MOST_REJECTED = 20  # certificates that are kept, so that nobody fills the disk


class VisionSystem:
    """The nodes of one camera."""

    def __init__(self, number: int, programs: list[str]) -> None:
        self._number = number
        self._programs = programs
        self._by_client = Inputs()  # what clients wrote to the signals
        self._by_method = Inputs()  # what a method has set until the cycle is over
        self._outputs = Outputs()
        self._inputs: dict[ua.NodeId, Signal] = {}
        self._output_nodes: dict[str, Node] = {}
        self._state: Node
        self._recipe: Node

    async def build(self, server: Server, space: int, camera: str) -> None:
        """Makes the nodes `ns=…;s=<camera>.…`."""
        top = await server.nodes.objects.add_object(_id(space, camera), ua.QualifiedName(camera, space))

        async def add(parent: Node, name: str) -> Node:
            return await parent.add_object(_id(space, f"{camera}.{name}"), ua.QualifiedName(name, space))

        machine = await add(top, "VisionStateMachine")
        self._state = await machine.add_variable(
            _id(space, f"{camera}.CurrentState"), ua.QualifiedName("CurrentState", space), "Preoperational"
        )
        signals = await add(top, "Signals")
        for signal in (*INPUTS, *OUTPUTS):
            label = ua.QualifiedName(signal.name, space)
            node_id = _id(space, f"{camera}.Signals.{signal.name}")
            value = getattr(Inputs() if signal in INPUTS else self._outputs, signal.field)
            node = await signals.add_variable(node_id, label, value, TYPES[signal.kind])
            await node.write_attribute(
                ua.AttributeIds.Description, ua.DataValue(ua.Variant(ua.LocalizedText(signal.text)))
            )
            if signal in INPUTS:
                await node.set_writable()
                self._inputs[node.nodeid] = signal
            else:
                self._output_nodes[signal.field] = node
        recipes = await add(top, "RecipeManagement")
        self._recipe = await recipes.add_variable(
            _id(space, f"{camera}.ActiveRecipe"), ua.QualifiedName("ActiveRecipe", space), ""
        )
        await recipes.add_variable(
            _id(space, f"{camera}.Recipes"), ua.QualifiedName("Recipes", space), self._programs, ua.VariantType.String
        )
        for name, call, inputs in (
            ("StartSingleJob", self._start_job, [ua.VariantType.UInt32]),
            ("Acknowledge", self._acknowledge, []),
            ("SelectRecipe", self._select, [ua.VariantType.String]),
            ("Reset", self._reset, []),
        ):
            await top.add_method(
                _id(space, f"{camera}.{name}"),
                ua.QualifiedName(name, space),
                uamethod(_counted(call, len(inputs))),
                inputs,
                [],
            )

    def take_write(self, node: ua.NodeId, value: Any) -> bool:
        """A client wrote a value, which `send` passes on. Returns whether it is a signal of this camera."""
        signal = self._inputs.get(node)
        if signal is not None and signal.kind.has(value):  # an array of this type is none
            self._by_client = replace(self._by_client, **{signal.field: value})
        return signal is not None

    def greet(self) -> None:
        """A client has connected: the agent learns what is set."""
        self.send()

    async def forget_clients(self, server: Server) -> None:
        """No client is left: what they set counts as 0, and the next one reads 0."""
        if self._by_client == Inputs() and self._by_method == Inputs():
            return
        self._by_client = self._by_method = Inputs()
        self.send()
        for node, signal in self._inputs.items():
            value = ua.Variant(getattr(self._by_client, signal.field), TYPES[signal.kind])
            await server.write_attribute_value(node, ua.DataValue(value))

    async def show(self, server: Server, values: Mapping[str, Any]) -> None:
        """Writes the changed outputs: ResultsReady is 1 only while the whole result is there."""
        before, self._outputs = self._outputs, Outputs(**values)
        changed = [name for name, value in asdict(self._outputs).items() if value != getattr(before, name)]
        first_or_last = 1 if self._outputs.results_ready else -1
        for name in sorted(changed, key=lambda name: first_or_last if name == "results_ready" else 0):
            await self._write(server, name, values[name])
        await self._state.write_value(_state(self._outputs))
        program = self._outputs.program
        await self._recipe.write_value(self._programs[program - 1] if 0 < program <= len(self._programs) else "")
        if self._by_method != Inputs() and self._is_over(before):
            self._by_method = Inputs()
            self.send()

    def _is_over(self, before: Outputs) -> bool:
        """Whether the cycle that a method has begun is complete, given up or missed, whoever did it."""
        now = self._outputs
        if now.busy or now.results_ready:
            return False
        begun_or_missed = (before.part_counter, before.missed) != (now.part_counter, now.missed)
        return before.busy or before.results_ready or begun_or_missed

    async def _write(self, server: Server, name: str, value: Any) -> None:
        kind = next(signal.kind for signal in OUTPUTS if signal.field == name)
        await server.write_attribute_value(
            self._output_nodes[name].nodeid, ua.DataValue(ua.Variant(value, TYPES[kind]))
        )

    def send(self) -> None:
        joined = {
            field.name: getattr(self._by_method, field.name) or getattr(self._by_client, field.name)
            for field in fields(Inputs)
        }
        _print({"camera": self._number, "inputs": joined})

    async def _start_job(self, parent: Any, part_id: int) -> ua.StatusCode | None:
        if not Kind.U32.has(part_id):  # the library takes any type
            return _status(ua.StatusCodes.BadTypeMismatch)
        if not self._outputs.trigger_ready or self._by_method.trigger:
            return _status(ua.StatusCodes.BadInvalidState)
        self._by_method = Inputs(trigger=True, part_id=part_id)
        self.send()
        return None

    async def _acknowledge(self, parent: Any) -> ua.StatusCode | None:
        if not self._outputs.results_ready:
            return _status(ua.StatusCodes.BadInvalidState)
        self._by_method = replace(self._by_method, results_ack=True)
        self.send()
        return None

    async def _select(self, parent: Any, recipe: str) -> ua.StatusCode | None:
        if recipe not in self._programs:
            return _status(ua.StatusCodes.BadNotFound)
        for number in (0, self._programs.index(recipe) + 1, 0):  # a change counts, also to one that was refused before
            self._by_client = replace(self._by_client, program_select=number)
            self.send()
        return None

    async def _reset(self, parent: Any) -> None:
        self._by_method = Inputs(reset=True)
        self.send()
        self._by_method = Inputs()
        self.send()


def _counted(call: Callable[..., Awaitable[ua.StatusCode | None]], count: int) -> Callable[..., Any]:
    """The method, refused with another number of arguments; the library does not check it."""

    async def counted(parent: Any, *values: Any) -> ua.StatusCode | None:
        if len(values) != count:
            codes = ua.StatusCodes
            return _status(codes.BadArgumentsMissing if len(values) < count else codes.BadTooManyArguments)
        return await call(parent, *values)

    return counted


def _state(outputs: Outputs) -> str:
    """The state of OPC 40100-1 that fits."""
    if outputs.busy:
        return "SingleExecution"
    return "Ready" if outputs.trigger_ready else "Initialized" if outputs.session else "Preoperational"


def _id(space: int, text: str) -> ua.NodeId:
    return ua.NodeId(ua.String(text), ua.Int16(space))


def _status(code: int) -> ua.StatusCode:
    return ua.StatusCode(ua.UInt32(code))


def _print(message: Mapping[str, Any]) -> None:
    print(json.dumps(message), flush=True)


async def _secure(server: Server, folder: Path, uri: str) -> None:
    """Own certificate, and only clients whose certificate is in `trusted`. Others are kept in `rejected`."""
    trusted, rejected = folder / "trusted", folder / "rejected"
    for each in (folder, trusted, rejected):
        each.mkdir(mode=0o700, parents=True, exist_ok=True)
    own, key = folder / "own.der", folder / "own-key.pem"
    use = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    await setup_self_signed_certificate(key, own, uri, socket.gethostname(), use, {"organizationName": "zsad-agent"})
    key.chmod(0o600)
    await server.load_certificate(own)
    await server.load_private_key(key)
    server.set_security_policy(SECURE)

    async def check(certificate: x509.Certificate, description: ua.ApplicationDescription) -> None:
        content = certificate.public_bytes(Encoding.DER)
        if any(_der(path) == content for path in trusted.iterdir()):
            return
        name = f"{hashlib.sha256(content).hexdigest()[:16]}.der"
        if len(list(rejected.iterdir())) < MOST_REJECTED:
            (rejected / name).write_bytes(content)
        print(f"a client is refused: move {rejected / name} to {trusted}", file=sys.stderr, flush=True)
        raise ua.UaStatusCodeError(ua.StatusCodes.BadCertificateUntrusted)

    server.set_certificate_validator(check)


def _der(path: Path) -> bytes | None:
    """The certificate in a DER or PEM file; None if it has none."""
    content = path.read_bytes()
    load = x509.load_pem_x509_certificate if content.startswith(b"-----") else x509.load_der_x509_certificate
    with contextlib.suppress(ValueError):
        return load(content).public_bytes(Encoding.DER)
    return None


async def _run(options: Mapping[str, Any], lines: asyncio.StreamReader) -> None:
    server = Server()
    await server.init()
    uri = f"urn:{socket.gethostname()}:zsad-agent"
    await server.set_application_uri(uri)
    server.set_server_name("zsad-agent")
    host, port = options["host"], options["port"]
    server.set_endpoint(f"opc.tcp://{f'[{host}]' if ':' in host else host}:{port}/zsad")
    if options["certificates"]:
        await _secure(server, Path(options["folder"]), uri)
    else:
        server.set_security_policy([ua.SecurityPolicyType.NoSecurity])
    space = await server.register_namespace(NAMESPACE)
    systems = [VisionSystem(number, options["programs"]) for number in range(len(options["cameras"]))]
    for system, camera in zip(systems, options["cameras"], strict=True):
        await system.build(server, space, camera)

    def written(event: Any, _: Any) -> None:
        if not event.is_external:
            return
        values = [
            (wanted.NodeId, wanted.Value.Value.Value)
            for wanted, status in zip(event.request_params.NodesToWrite, event.response_params, strict=True)
            if status.is_good() and wanted.AttributeId == ua.AttributeIds.Value
        ]
        for system in systems:  # a Trigger counts with the PartId of the same request
            if any([system.take_write(*value) for value in values]):
                system.send()

    server.subscribe_server_callback(CallbackType.PostWrite, written)

    async def look_for_clients() -> None:
        were_there = False
        while True:
            await asyncio.sleep(LOOK_FOR_CLIENTS_S)
            are_there = server.bserver is not None and bool(server.bserver.clients)
            for system in systems:
                if not are_there:  # also after one that came and went since the last look
                    await system.forget_clients(server)
                elif not were_there:
                    system.greet()
            were_there = are_there
            if are_there:
                _print({"clients": True})

    async with server:
        binary: Any = server.bserver
        for listener in binary._server.sockets:
            keep_alive(listener)
        _print({"listening": True})
        looking = asyncio.create_task(look_for_clients())
        while line := await lines.readline():
            message = json.loads(line)
            await systems[message["camera"]].show(server, message["outputs"])
        looking.cancel()


async def _main() -> None:
    lines = asyncio.StreamReader(limit=2**20)
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    await _run(json.loads(await lines.readline()), lines)


if __name__ == "__main__":
    logging.basicConfig(level=logging.ERROR)
    asyncio.run(_main())
