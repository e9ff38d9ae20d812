# SPDX-License-Identifier: GPL-2.0-only
"""One connection seen from its interface: datagrams go out, the peer's segments come in."""

from dataclasses import dataclass, replace

from mimicd.core import abi
from mimicd.core.abi import ConnEntry, Operation
from mimicd.core.connection import State
from mimicd.core.frames import command_frame
from mimicd.core.model import Filter, FlowSettings, Origin
from tests.bpf.packets import link_header, udp_frame
from tests.bpf.plane import COMMAND_MARK, RESEND_MARK, Arrival, Arrived, Departure, Plane
from tests.rig.program_run import ProgramRun
from tests.rig.segment import (
    ACK,
    PSH,
    SEQUENCE_SPACE,
    SYN,
    End,
    Segment,
    decode_packet,
    encode_datagram,
    encode_packet,
    encode_syn_options,
    end,
)

LOCAL = {4: end("198.51.100.1", 51820), 6: end("2001:db8:1::1", 51820)}
HIGHER_REMOTE = {4: end("203.0.113.5", 40000), 6: end("2001:db8:2::5", 40000)}
LOWER_REMOTE = {4: end("192.0.2.5", 40000), 6: end("2001:db8::5", 40000)}
FULL_WINDOW_BYTES = 0x3400000
SCALE = 12
FULL_FIELD = FULL_WINDOW_BYTES >> SCALE
PEER_ISN = 0x70000000
DATAGRAM = b"a datagram of thirty-one bytes."


@dataclass
class Talk:
    """The peer's side of it: what the peer sent last and what it expects next."""

    plane: Plane
    local: End
    remote: End
    settings: FlowSettings
    peer_seq: int = PEER_ISN
    peer_ack: int = 0
    peer_scale: int = SCALE
    link_bytes: int = 14

    @property
    def key(self) -> bytes:
        ends = (self.local.address, self.local.port, self.remote.address, self.remote.port)
        return abi.encode_flow(*ends)

    @property
    def entry(self) -> ConnEntry:
        entry = self.plane.entry(self.key)
        assert entry is not None, "there is no entry"
        return entry

    def state(self) -> State | None:
        """None where there is no entry."""
        entry = self.plane.entry(self.key)
        return entry.state if entry else None

    def change(self, **changes: object) -> None:
        self.plane.change(self.key, **changes)

    # What leaves.

    def send(self, datagram: bytes = DATAGRAM, mark: int = 0) -> ProgramRun:
        frame = udp_frame(self.local, self.remote, datagram)
        return self.plane.egress(frame[14 - self.link_bytes :], mark)

    def resend(self, datagram: bytes = DATAGRAM) -> ProgramRun:
        """What user space does with a held datagram."""
        return self.send(datagram, RESEND_MARK)

    def sent(self, datagram: bytes = DATAGRAM) -> Segment:
        """The segment that a datagram leaves as, or is answered by."""
        run = self.send(datagram)
        assert run.result == Departure.SENT, Departure(run.result)
        return self.segment_of(run.data)

    def drain(self) -> None:
        """User space sends the one datagram that was held, and says that it was the last."""
        assert self.resend().result == Departure.SENT
        assert self.command(Operation.DRAINED).result == Departure.TAKEN

    def command(
        self, operation: Operation, argument: int = 0, generation: int | None = None
    ) -> ProgramRun:
        """For the present generation unless another is given."""
        if generation is None:
            generation = self.entry.generation
        payload = abi.encode_command(operation, generation, argument)
        header = link_header(self.local.version)[: self.link_bytes]
        return self.plane.egress(command_frame(header, self.key, payload), COMMAND_MARK)

    def asked(self, operation: Operation, argument: int = 0) -> Segment:
        """The segment that a command makes."""
        run = self.command(operation, argument)
        assert run.result == Departure.SENT, Departure(run.result)
        return self.segment_of(run.data)

    def segment_of(self, frame: bytes) -> Segment:
        """What a frame carries; its checksums must be right."""
        segment = decode_packet(frame[self.link_bytes :])
        assert segment is not None, frame.hex()
        assert segment.checksum_right, segment
        return segment

    # What comes.

    def segment(
        self,
        flags: int,
        payload: bytes = b"",
        *,
        seq: int | None = None,
        ack: int | None = None,
        window: int = FULL_FIELD,
        options: bytes = b"",
    ) -> Segment:
        """A segment of the peer, with its next numbers unless others are given."""
        return Segment(
            self.remote,
            self.local,
            flags,
            (self.peer_seq if seq is None else seq) % SEQUENCE_SPACE,
            (self.peer_ack if ack is None else ack) % SEQUENCE_SPACE,
            window,
            payload,
            options,
        )

    def frame_of(self, segment: Segment) -> bytes:
        header = link_header(self.local.version, incoming=True)[: self.link_bytes]
        return header + encode_packet(segment)

    def receive(self, segment: Segment) -> Arrived:
        return self.plane.ingress(self.frame_of(segment))

    def answer(self, segment: Segment) -> Segment:
        """What a segment that is not delivered is answered with."""
        arrived = self.receive(segment)
        assert arrived.kind is Arrival.ANSWERED, arrived
        return self.segment_of(arrived.frame)

    def syn(self, isn: int = PEER_ISN, mss: int = 1460) -> Segment:
        return self.segment(
            SYN, seq=isn, ack=0, window=65535, options=encode_syn_options(mss, self.peer_scale)
        )

    def syn_ack(self, **changes: int) -> Segment:
        return replace(self.syn(), flags=SYN | ACK, ack=self.peer_ack, **changes)  # type: ignore[arg-type]

    def data(self, datagram: bytes = DATAGRAM, flags: int = ACK | PSH) -> Segment:
        """A data segment; the peer's next number moves on."""
        payload = encode_datagram(datagram, self.settings.padding, self.peer_seq, self.peer_ack)
        segment = self.segment(flags, payload)
        self.peer_seq = (self.peer_seq + len(payload)) % SEQUENCE_SPACE
        return segment

    # Handshakes, with real segments.

    def open(self) -> Segment:
        """A first datagram, which is held; its SYN."""
        syn = self.sent()
        self.peer_ack = (syn.seq + 1) % SEQUENCE_SPACE
        return syn

    def connect(self) -> Segment:
        """We open, the peer accepts, the datagram held for it is sent; our ACK."""
        self.open()
        ack = self.answer(self.syn_ack())
        self.peer_seq = (self.peer_seq + 1) % SEQUENCE_SPACE
        self.drain()
        self.take_all()
        return ack

    def accept(self) -> Segment:
        """The peer opens, and proves it with a bare ACK; our answer to that."""
        syn_ack = self.answer(self.syn(self.peer_seq))
        self.peer_seq = (self.peer_seq + 1) % SEQUENCE_SPACE
        self.peer_ack = (syn_ack.seq + 1) % SEQUENCE_SPACE
        return self.answer(self.segment(ACK))

    def take_all(self) -> None:
        """The peer has received what was sent, and says so with a window update."""
        self.peer_ack = self.entry.seq
        self.receive(self.segment(ACK))


def talk(
    plane: Plane,
    version: int = 4,
    settings: FlowSettings | None = None,
    *,
    remote: End | None = None,
    link_bytes: int = 14,
) -> Talk:
    """A flow that a filter on our end makes ours."""
    local = LOCAL[version]
    settings = settings or FlowSettings()
    plane.add_filter(Filter(Origin.LOCAL, local.address, local.port, settings))
    return Talk(plane, local, remote or HIGHER_REMOTE[version], settings, link_bytes=link_bytes)
