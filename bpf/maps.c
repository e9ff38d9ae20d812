// SPDX-License-Identifier: GPL-2.0-only
/*
 * The maps, and the small functions that touch them. BCC resolves maps by name in
 * the translation unit's own text, so .c files are joined, in two parts that share the
 * maps: maps, skb, rewrite, datagram, too_big, egress; and maps, skb, turn, xdp or tc, path,
 * restore, ingress. Headers hold what is pure.
 */
#include <uapi/linux/bpf.h>
#include <uapi/linux/if_ether.h>
#include <uapi/linux/in.h>
#include <uapi/linux/ip.h>
#include <uapi/linux/ipv6.h>
#include <uapi/linux/pkt_cls.h>
#include <uapi/linux/tcp.h>
#include <uapi/linux/udp.h>

#include "abi.h"
#include "checksum.h"
#include "cookie.h"
#include "parse.h"
#include "segment.h"
#include "icmp.h"
#include "frame.h"
#include "state.h"
#include "send.h"
#include "receive.h"

/*
 * Helpers want a length that the verifier can bound from both sides; with this form
 * it sees 1..16384 and never 0. The caller guarantees the range.
 */
#define helper_length(n) ((((n) - 1) & 0x3fff) + 1)

/* A helper_length(), headers and the last piece of a checksum; per-CPU values end at 32 KiB. */
#define COPY_BYTES (16384 + 1024)

struct hold_buffer {
	struct event event;
	__u8 frame[COPY_BYTES];
};

/* What a packet needs on its way through; see parse_packet() for why not on the stack. */
struct send_buffer {
	u64 cloning; /* this CPU is inside bpf_clone_redirect() */
	struct packet packet;
	struct send_verdict verdict;
	__u8 conn_template[sizeof(struct conn)];
	__u8 segment[COPY_BYTES];
	__u8 head[64];
	__u8 options[512]; /* HEADERS_MAX rounded up, for options_move() */
};

struct receive_buffer {
	struct packet packet;
	struct receive_verdict verdict;
	struct segment in;
	struct tcp_header tcp;
	__u8 l2[L2_MAX + 8];
	__u8 conn_template[sizeof(struct conn)];
	struct event event;
	__u8 control[2048 + 64]; /* zeros follow the segment as far as its last piece */
	__u8 head[HEADERS_MAX + 64];
	__u8 moved[UDP_HEADER + 32]; /* the UDP header, and what moves up behind it */
};

BPF_ARRAY(config, struct config, 1);
BPF_ARRAY(rules, struct rule, MAX_RULES);
BPF_ARRAY(ports, struct port_classes, 1);
BPF_F_TABLE("lpm_trie", struct filter_key, struct filter_value, filters, MAX_FILTERS, BPF_F_NO_PREALLOC);
BPF_F_TABLE("hash", struct flow_key, struct conn, conns, MAX_CONNECTIONS, BPF_F_NO_PREALLOC);
BPF_TABLE("lru_hash", struct flow_key, struct half_open, half_opens, MAX_HALF_OPEN);
BPF_PERCPU_ARRAY(counters, u64, COUNTERS);
BPF_RINGBUF_OUTPUT(ring, RING_BYTES / 4096);
BPF_RINGBUF_OUTPUT(traces, TRACE_RING_BYTES / 4096);
BPF_PERCPU_ARRAY(hold_buffers, struct hold_buffer, 1);
BPF_PERCPU_ARRAY(send_buffers, struct send_buffer, 1);
BPF_PERCPU_ARRAY(receive_buffers, struct receive_buffer, 1);

static __always_inline void count(u32 which)
{
	int index = which;
	u64 *value = counters.lookup(&index);

	if (likely(value))
		(*value)++;
}

/*
 * CLOCK_BOOTTIME as it was at the first packet since the last jiffy, on whatever CPU: what an
 * established connection measures takes many of those, and to read the clock for each packet is
 * a twelfth of what the disguise costs (docs/benchmarks.md). Never ahead of the clock.
 */
static __always_inline u64 clock_tick_ns(struct config *cfg)
{
	u64 jiffies = bpf_jiffies64();

	if (unlikely(jiffies != cfg->tick_jiffies)) {
		cfg->tick_ns = bpf_ktime_get_boot_ns();
		cfg->tick_jiffies = jiffies;
	}
	return cfg->tick_ns;
}

static __always_inline struct config *config_get(void)
{
	int zero = 0;

	return config.lookup(&zero);
}

/* The rule of the most specific filter that matches this flow; 0 where none does. */
static __always_inline u32 find_rule(const struct flow_key *flow, int v6)
{
	struct filter_key key = {.prefix_bits = FILTER_PREFIX_BITS, .family = v6 ? 6 : 4};
	struct filter_value *value;
	struct port_classes *classes;
	u32 rule = 0, rank = 0;
	int zero = 0;

	classes = ports.lookup(&zero);
	if (!classes)
		return 0;
	key.port_class = ((__u16 *)classes->local)[bpf_ntohs(flow->local_port)];
	if (key.port_class) {
		key.origin = ORIGIN_LOCAL;
		__builtin_memcpy(key.address, flow->local, 16);
		value = filters.lookup(&key);
		if (value) {
			rule = value->rule;
			rank = value->rank;
		}
	}
	key.port_class = ((__u16 *)classes->remote)[bpf_ntohs(flow->remote_port)];
	if (key.port_class) {
		key.origin = ORIGIN_REMOTE;
		__builtin_memcpy(key.address, flow->remote, 16);
		value = filters.lookup(&key);
		if (value && value->rank > rank)
			rule = value->rule;
	}
	return rule;
}

static __always_inline struct rule *rule_get(u32 number)
{
	int index = number;

	return number ? rules.lookup(&index) : 0;
}

/* `zeroed` is a conn-sized buffer that holds zeros but for the rule. */
static __always_inline struct conn *conn_make(const struct flow_key *flow, u32 rule, u8 *zeroed)
{
	*(u32 *)(zeroed + __builtin_offsetof(struct conn, rule)) = rule;
	/* Another CPU may be first: then its entry is the one. */
	conns.insert((struct flow_key *)flow, (struct conn *)zeroed);
	return conns.lookup((struct flow_key *)flow);
}

static __always_inline void event_state(struct event *event, const struct flow_key *flow,
					u64 now, u32 generation, u8 state, u8 role, u8 reason)
{
	__builtin_memset(event, 0, sizeof(*event));
	event->type = EVENT_STATE;
	event->at_ns = now;
	event->key = *flow;
	event->generation = generation;
	event->state = state;
	event->role = role;
	event->reason = reason;
	if (ring.ringbuf_output(event, sizeof(*event), 0))
		count(DROP_RING_FULL);
}

/*
 * A segment for those who watch: one test of a flag where nobody does. The reader looks at
 * fixed times, so nobody is woken, and what it has no time for is counted.
 */
static __always_inline void trace(const struct config *cfg, const struct flow_key *flow,
				  u8 direction, u8 flags, u32 seq, u32 ack, u32 length)
{
	struct event *event;

	if (likely(!(cfg->flags & CONFIG_TRACE)))
		return;
	event = traces.ringbuf_reserve(sizeof(*event));
	if (!event) {
		count(COUNT_TRACE_LOST);
		return;
	}
	__builtin_memset(event, 0, sizeof(*event));
	event->type = EVENT_TRACE;
	event->at_ns = bpf_ktime_get_boot_ns();
	event->key = *flow;
	event->seq = seq;
	event->ack = ack;
	event->length = length;
	event->flags = direction;
	event->tcp_flags = flags;
	traces.ringbuf_submit(event, BPF_RB_NO_WAKEUP);
}
