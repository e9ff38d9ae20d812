/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the BPF programs and user space share: map keys and values, events, commands.
 *
 * mimicd/core/abi.py holds the same layouts; a test compares the two. Every change
 * here that an older process would misread raises ABI_VERSION: maps outlive the
 * daemon, and the next daemon adopts only a version that it knows.
 *
 * Addresses and ports are in network order as in the packet, IPv4 as ::ffff:a.b.c.d.
 * Everything else is in host order. Times are CLOCK_BOOTTIME nanoseconds.
 */
#ifndef MIMICD_ABI_H
#define MIMICD_ABI_H

#define ABI_VERSION 5

#define MAX_CONNECTIONS 65536
#define MAX_RULES 32768
#define MAX_FILTERS 524288
#define MAX_HALF_OPEN 4096
#define RING_BYTES (4 << 20)
#define TRACE_RING_BYTES (256 << 10)

/* Datagrams that one connection may hold back until it is established. */
#define HELD_MAX 256
/* A larger datagram is not transformed: the copy buffers end there. */
#define DATAGRAM_MAX 16000

struct flow_key {
	__be32 local[4];
	__be32 remote[4];
	__be16 local_port;
	__be16 remote_port;
};

enum origin { ORIGIN_LOCAL = 1, ORIGIN_REMOTE = 2 };

/*
 * The ports that the same filters name are a class; 0: no filter names the port. So what
 * most packets cost that are none of ours is to read two numbers.
 */
struct port_classes {
	/* Two bytes a port. For every element that is not a char BCC generates code, for seconds. */
	char local[65536 * 2];
	char remote[65536 * 2];
};

/* Longest-prefix key: origin, family and class always count, then the address. */
struct filter_key {
	__u32 prefix_bits;
	__u8 origin;
	__u8 family; /* 4 or 6 */
	__u16 port_class;
	__be32 address[4];
};
#define FILTER_PREFIX_BITS 160

/* The most specific filter of all that match here, shorter prefixes included. */
struct filter_value {
	__u32 rule;
	__u32 rank; /* the higher, the more specific */
};

#define PADDING_RANDOM 255

enum rule_flag {
	RULE_MAX_WINDOW = 1,
	RULE_STRICT = 2 /* what comes in as plain UDP is dropped */
};

/* The settings of one filter; index in the map rules. 0 is never used. */
struct rule {
	__u16 handshake_interval_s; /* 0: passive */
	__u16 handshake_retry;
	__u16 keepalive_time_s;
	__u16 keepalive_interval_s;
	__u16 keepalive_retry;
	__u16 keepalive_stale_s;
	__u8 padding; /* bytes, or PADDING_RANDOM */
	__u8 flags;
	__u16 reserved;
};

enum state { IDLE, SYN_SENT, SYN_RECEIVED, ESTABLISHED };
enum role { NO_ROLE, INITIATOR, RESPONDER };

/* Why a connection changed its state. */
enum reason {
	REASON_NONE,
	REASON_OPENED,
	REASON_ESTABLISHED,
	REASON_RESET_BY_PEER,
	REASON_CLOSED_BY_PEER,
	REASON_RESTARTED_BY_PEER,
	REASON_NO_ANSWER,
	REASON_KEEPALIVE,
	REASON_STALE,
	REASON_STOPPED,
	REASON_CROSSED, /* the peer's SYN met ours */
};

enum conn_flag {
	DRAINING = 1,       /* user space still holds datagrams: later ones queue behind */
	PROBE_OUT = 2,      /* a window probe waits for its answer */
	KEEPALIVE_OUT = 4,  /* a keepalive waits for its answer */
	CROSSED = 8,        /* the peer's SYN met ours; its ISN is known */
	RETRIED = 16,       /* a RST already made us send a second SYN */
	CROSS_SILENTLY = 32, /* the peer answered our crossing SYN+ACK by RST: no more of those */
	CROSS_PENDING = 64, /* user space is to ask for our SYN+ACK, or our SYN again */
	HINT_FAILED = 128,  /* the ACK of a SYN that was answered did not come: wait for none again */
	DRAIN_OVERTAKEN = 256 /* DRAINING, but no more queue: more came than user space can send */
};

/* Drops that `show` reports per connection, in this order. */
enum conn_drop {
	CONN_DROP_COOLDOWN,
	CONN_DROP_PASSIVE,
	CONN_DROP_HELD_FULL,
	CONN_DROP_WINDOW,
	CONN_DROP_LOST,
	CONN_DROP_RECEIVED,
	CONN_DROPS
};

#define L2_MAX 24

struct conn {
	/* What nearly every segment reads or writes stands together: a few lines of the cache. */
	struct bpf_spin_lock lock;
	__u32 rule;
	__u8 state, role, peer_wscale;
	__u8 cooldown_step; /* 0: none, else 5 s << (step - 1) */
	__u16 flags;
	__u8 last_reset;    /* enum reason */
	__u8 l2_len;
	__u32 generation;  /* counts handshakes, so that late commands hit nothing */
	__u32 seq;         /* next to send (SND.NXT) */
	__u32 ack;         /* next expected (RCV.NXT) */
	__u32 window;      /* bytes that we still let the peer send */
	__u32 peer_window; /* bytes that the peer still lets us send */
	__u32 stray_next;  /* where the latest segment outside the window ended */
	__u64 last_tx_ns;
	__u64 last_probe_ns;
	__u64 hop_at_ns;       /* when a superpacket last took the hop; read and written unlocked */
	__u64 tx_packets, tx_bytes; /* datagrams and their payload */
	__u64 last_rx_ns;      /* any segment */
	__u64 last_active_ns;  /* any segment but keepalives and their answers */
	__u64 syn_answered_ns; /* a SYN met this entry and was answered statelessly */
	__u64 rx_packets, rx_bytes;
	/* The rest is for handshakes, for what is held, and for user space. */
	__u64 state_since_ns;
	__u64 reset_ns;        /* when it last became idle; 0: never */
	__u64 drain_until_ns;
	__u32 isn, peer_isn;
	__u32 probe_seq;
	__u32 held, resent;
	__u32 drops[CONN_DROPS];
	__u16 peer_mss;
	__u16 reserved;
	__u8 l2[L2_MAX];    /* link header of a frame to the peer */
};

/* A SYN that was answered: a hint, never needed for correctness, lost at will. */
struct half_open {
	__u64 at_ns;
	__u32 isn, peer_isn;
	__u16 peer_mss;
	__u8 peer_wscale;
	__u8 reserved;
	__u32 ack; /* what the SYN+ACK acknowledged */
};

enum config_flag {
	CONFIG_TRACE = 1,
	CONFIG_KEEP_TAIL = 2, /* what is behind a datagram is left to the IP layer to trim */
	CONFIG_STRICT = 4     /* some rule is strict */
};

struct config {
	__u64 cookie_key[2];
	__u32 ifindex;
	__u32 hop_ifindex; /* 0: superpackets are dropped */
	__u32 mtu;
	__u32 flags;
	__u32 resend_mark;  /* skb mark of held datagrams that user space sends again */
	__u32 command_mark; /* skb mark of command frames */
	__u32 deliver_mark; /* skb mark of a datagram between two passes of TC ingress */
	__u32 reserved;
	__u64 tick_jiffies; /* when tick_ns was read */
	__u64 tick_ns;
	__u64 rst_at_ns;    /* when a stray segment was last answered by RST */
};

enum event_type { EVENT_HELD = 1, EVENT_STATE, EVENT_TRACE };
enum event_flag { EVENT_SENT = 1, EVENT_PARTIAL = 2 };

/*
 * EVENT_HELD is followed by frame_len bytes of frame, link header first. EVENT_TRACE is a
 * segment, and comes in a ring of its own, where it takes no room from the others.
 */
struct event {
	__u32 type;
	__u32 frame_len;
	__u64 at_ns;
	struct flow_key key;
	__u32 generation;
	__u32 seq, ack;
	__u32 length;
	__u8 state, role, reason, flags;
	__u8 tcp_flags, reserved[3];
	__u32 transport_at; /* EVENT_HELD: offset of the UDP header in the frame */
};

enum operation {
	COMMAND_SYN = 1,   /* the SYN again; after a crossing one the SYN+ACK */
	COMMAND_KEEPALIVE,
	COMMAND_PROBE,
	COMMAND_RESET,     /* argument: enum reason */
	COMMAND_RELEASE,   /* argument: held datagrams that will not be sent again */
	/*
	 * All that were held have left, and later ones may go by themselves. Not the last of them
	 * says so: until it has left, one that is sent on another CPU could overtake it.
	 */
	COMMAND_DRAINED
};

/*
 * User space never writes a connection. It sends a UDP frame of the flow with
 * command_mark and this payload through our own egress; the program applies it
 * under the connection's lock and turns the frame into the segment, if any.
 */
struct command {
	__u32 operation;
	__u32 generation;
	__u32 argument;
};

enum counter {
	COUNT_TX_DATA,
	COUNT_TX_SYN,
	COUNT_TX_SYN_ACK,
	COUNT_TX_ACK,
	COUNT_TX_RST,
	COUNT_TX_PROBE,
	COUNT_TX_KEEPALIVE,
	COUNT_TX_WINDOW_UPDATE,
	COUNT_RX_DATA,
	COUNT_RX_SYN,
	COUNT_RX_SYN_ACK,
	COUNT_RX_RST,
	COUNT_RX_FIN,
	COUNT_RX_PROBE,
	COUNT_RX_KEEPALIVE,
	COUNT_RX_ACK,
	COUNT_HELD,
	COUNT_RESENT,
	COUNT_HOP,
	/* drops on the way out */
	DROP_COOLDOWN,
	DROP_PASSIVE,
	DROP_HELD_FULL,
	DROP_RING_FULL,
	DROP_LOST_HELD,
	DROP_RESEND_LATE,
	DROP_WINDOW,
	DROP_TOO_BIG,
	DROP_SUPERPACKET,
	DROP_FRAGMENT,
	DROP_MALFORMED,
	DROP_MAP_FULL,
	DROP_STALE_COMMAND,
	DROP_REWRITE,
	/* drops on the way in */
	DROP_RX_MALFORMED,
	DROP_RX_FRAGMENT,
	DROP_RX_CHECKSUM,
	DROP_RX_FLAGS,
	DROP_RX_OPTIONS,
	DROP_RX_ACK,
	DROP_RX_RESET,
	DROP_RX_NO_CONNECTION,
	DROP_RX_UNEXPECTED,
	DROP_RX_SHORT,
	DROP_RX_TOO_BIG,
	DROP_RX_MAP_FULL,
	DROP_RX_REWRITE,
	COUNT_TRACE_LOST, /* segments that a full ring kept from being told; they went on */
	/* datagrams of strict filters that were not disguised */
	DROP_PLAIN, /* on the way out: the guard's */
	DROP_RX_PLAIN,
	COUNT_RX_PATH_MTU, /* errors of routers on the way, retold for the datagram's sender */
	COUNT_DRAINED, /* how often user space said that it has sent all held datagrams again */
	COUNTERS
};

#endif
