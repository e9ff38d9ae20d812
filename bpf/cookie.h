/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The stateless responder: our initial sequence number answers a SYN and, when the
 * ACK brings it back, proves that the peer received it (RFC 4987 section 3.6).
 *
 *   31            6 5     4 3      0
 *  | 26 bits of hash | epoch | wscale |   (wscale masked by the hash)
 *
 * The hash is SipHash-2-4 of the flow, keyed per interface, so that nobody off the
 * path can guess it; the epoch bounds its life to COOKIE_LIFE_NS.
 */
#ifndef MIMICD_COOKIE_H
#define MIMICD_COOKIE_H

#define COOKIE_EPOCH_SHIFT 34 /* 17 s */
#define COOKIE_LIFE_NS (3ULL << COOKIE_EPOCH_SHIFT)

#define ROTATE_LEFT(x, bits) ((x) << (bits) | (x) >> (64 - (bits)))

#define SIP_ROUND(a, b, c, d)			\
	do {					\
		a += b;				\
		b = ROTATE_LEFT(b, 13) ^ a;	\
		a = ROTATE_LEFT(a, 32);		\
		c += d;				\
		d = ROTATE_LEFT(d, 16) ^ c;	\
		a += d;				\
		d = ROTATE_LEFT(d, 21) ^ a;	\
		c += b;				\
		b = ROTATE_LEFT(b, 17) ^ c;	\
		c = ROTATE_LEFT(c, 32);		\
	} while (0)

#define SIP_WORD(a, b, c, d, word)		\
	do {					\
		d ^= (word);			\
		SIP_ROUND(a, b, c, d);		\
		SIP_ROUND(a, b, c, d);		\
		a ^= (word);			\
	} while (0)

static __always_inline __u64 siphash_flow(const __u64 key[2], const struct flow_key *flow, __u64 extra)
{
	const __u32 *w = (const __u32 *)flow;
	__u64 a = key[0] ^ 0x736f6d6570736575ULL;
	__u64 b = key[1] ^ 0x646f72616e646f6dULL;
	__u64 c = key[0] ^ 0x6c7967656e657261ULL;
	__u64 d = key[1] ^ 0x7465646279746573ULL;

#pragma unroll
	for (int i = 0; i < 8; i += 2)
		SIP_WORD(a, b, c, d, (__u64)w[i] | (__u64)w[i + 1] << 32);
	SIP_WORD(a, b, c, d, (__u64)w[8] | extra << 32);
	/* the length byte that ends a SipHash message: 44 bytes */
	SIP_WORD(a, b, c, d, 44ULL << 56);
	c ^= 0xff;
	SIP_ROUND(a, b, c, d);
	SIP_ROUND(a, b, c, d);
	SIP_ROUND(a, b, c, d);
	SIP_ROUND(a, b, c, d);
	return a ^ b ^ c ^ d;
}

static __always_inline __u32 cookie_of_epoch(const __u64 key[2], const struct flow_key *flow,
					     __u32 epoch, __u32 wscale)
{
	__u64 hash = siphash_flow(key, flow, epoch);

	return ((__u32)hash & ~0x3fU) | (epoch & 3) << 4 | ((wscale ^ (__u32)(hash >> 32)) & 0xf);
}

/* The epoch to hash with: of now for a new cookie, else of the last time that `isn` could name. */
static __always_inline __u32 cookie_epoch(__u64 now_ns, int check, __u32 isn)
{
	__u32 epoch = now_ns >> COOKIE_EPOCH_SHIFT;

	return check ? epoch - ((epoch - (isn >> 4)) & 3) : epoch;
}

/* Whether `isn` is the cookie that `base` is for window scale 0; then its window scale. */
static __always_inline int cookie_matches(__u32 base, __u32 isn, __u8 *wscale)
{
	*wscale = (base ^ isn) & 0xf;
	/* a SYN's scale counts as 14 at most, so that no cookie of ours says 15 */
	return !((base ^ isn) & ~0xfU) && *wscale != 15;
}

#endif
