/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * TCP segments as the state machine sees them (host order) and their headers as
 * they go on the wire.
 */
#ifndef MIMICD_SEGMENT_H
#define MIMICD_SEGMENT_H

#define TCP_FIN 0x01
#define TCP_SYN 0x02
#define TCP_RST 0x04
#define TCP_PSH 0x08
#define TCP_ACK 0x10

#define TCP_HEADER 20
#define UDP_HEADER 8
#define SYN_OPTIONS 12
#define SYN_OPTIONS_READ 20 /* of a peer, padding counted; real ones have at most 8 */
#define WSCALE_LIMIT 14 /* RFC 7323 section 2.3 */

/* A received segment, and what only its bytes can tell the state machine. */
struct segment {
	__u32 seq, ack;
	__u32 length;   /* TCP payload */
	__u16 window;   /* the field, unscaled */
	__u16 mss;      /* SYN: 0 without the option */
	__u8 wscale;    /* SYN: 0 without the option */
	__u8 flags;
	__u8 proves;    /* its ack is a cookie of ours plus one */
	__u8 proven_wscale;
	__u8 we_are_higher; /* our (address, port) is above the peer's */
	__u32 cookie;   /* SYN: the ISN of a stateless answer */
};

/* A control segment to be sent. `flags` 0: none. */
struct control {
	__u32 seq, ack;
	__u16 window;
	__u8 flags;
	__u8 payload; /* 0, or 1 for a window probe */
};

struct control_bytes {
	struct tcp_header tcp;
	__u8 rest[SYN_OPTIONS]; /* options of a SYN, or the byte of a probe */
};

static __always_inline __u32 control_length(const struct control *c)
{
	return TCP_HEADER + (c->flags & TCP_SYN ? SYN_OPTIONS : 0) + c->payload;
}

/* RFC 9293 section 3.7.1: MSS is what fits without IP and TCP options. */
static __always_inline __u16 mss_of(__u32 mtu, int v6)
{
	__u32 least = v6 ? 1280 : 576;

	if (mtu < least)
		mtu = least;
	if (mtu > 65535)
		mtu = 65535;
	return mtu - (v6 ? 60 : 40);
}

/* Header and options, checksum over the pseudo-header included. Ports in network order. */
static __always_inline void control_encode(struct control_bytes *out, const struct control *c,
					   __be16 source, __be16 dest, __u64 addresses,
					   __u16 mss, __u8 wscale)
{
	__u32 length = control_length(c);

	__builtin_memset(out, 0, sizeof(*out));
	out->tcp.source = source;
	out->tcp.dest = dest;
	out->tcp.seq = bpf_htonl(c->seq);
	out->tcp.ack = bpf_htonl(c->ack);
	out->tcp.offset = TCP_HEADER / 4 << 4;
	out->tcp.flags = c->flags;
	out->tcp.window = bpf_htons(c->window);
	if (c->flags & TCP_SYN) {
		out->tcp.offset = (TCP_HEADER + SYN_OPTIONS) / 4 << 4;
		out->rest[0] = 2; /* MSS */
		out->rest[1] = 4;
		out->rest[2] = mss >> 8;
		out->rest[3] = mss;
		out->rest[4] = 1; /* no operation */
		out->rest[5] = 3; /* window scale */
		out->rest[6] = 3;
		out->rest[7] = wscale;
		out->rest[8] = 1;
		out->rest[9] = 1;
		out->rest[10] = 4; /* SACK permitted */
		out->rest[11] = 2;
	}
	out->tcp.check = ~csum_fold64(csum_pseudo(addresses, IPPROTO_TCP, length) +
				      csum_words((__u32 *)out, sizeof(*out) / 4));
}

static __always_inline __u64 option_byte(const __u8 options[64], __u64 at)
{
	barrier_var(at);
	return options[at & 0x3f];
}

/* 1 or 0 without a branch: each branch in the loop below would double the verifier's paths. */
static __always_inline __u64 is_equal(__u64 a, __u64 b)
{
	__u64 result = ((a ^ b) - 1) >> 63;

	barrier_var(result);
	return result;
}

static __always_inline __u64 is_less(__u64 a, __u64 b)
{
	__u64 result = (a - b) >> 63;

	barrier_var(result);
	return result;
}

/* MSS and window scale among `length` bytes of options; -1 where a length is broken. */
static __always_inline int parse_syn_options(const __u8 options[64], __u32 length, struct segment *s)
{
	__u64 at = 0, active = 1, broken = 0, mss = 0, wscale = 0;

	for (int i = 0; i < SYN_OPTIONS_READ; i++) {
		__u64 kind = option_byte(options, at);
		__u64 bytes = option_byte(options, at + 1);
		__u64 single = is_equal(kind, 1), found;

		active &= is_less(at, length) & ~is_equal(kind, 0);
		bytes = single + (1 - single) * bytes;
		broken |= active & (1 - single) & (is_less(bytes, 2) | is_less(length, at + bytes));
		active &= ~broken;
		found = active & is_equal(kind, 2) & is_equal(bytes, 4);
		mss += found * ((option_byte(options, at + 2) << 8 | option_byte(options, at + 3)) - mss);
		found = active & is_equal(kind, 3) & is_equal(bytes, 3);
		wscale += found * (option_byte(options, at + 2) - wscale);
		at += active * bytes;
	}
	s->mss = mss;
	s->wscale = wscale > WSCALE_LIMIT ? WSCALE_LIMIT : wscale;
	return broken ? -1 : 0;
}

#endif
